import shutil
import subprocess
from pathlib import Path

import pytest

UNIT = Path(__file__).parent.parent / "systemd" / "hubsync.service"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """A copy of the unit that starts a program which exists everywhere."""
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text().replace("ExecStart=/usr/bin/hubsync run", "ExecStart=/usr/bin/true run"))
    return copy


def analyze(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    return subprocess.run(command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def test_the_unit_has_no_mistake(unit: Path) -> None:
    """Systemd understands every key; misspelt ones only give output, not an exit status."""
    result = analyze("verify", "--man=no", unit)

    assert (0, "") == (result.returncode, result.stdout)


def test_a_misspelt_key_would_be_noticed(unit: Path) -> None:
    """The check above is not blind."""
    unit.write_text(unit.read_text().replace("KillMode=", "KilMode="))

    assert "KilMode" in analyze("verify", "--man=no", unit).stdout


def test_the_sandbox_stays_tight(unit: Path) -> None:
    """The exposure level is at most 1.5 of 10."""
    result = analyze("security", "--offline=true", "--threshold=15", "--no-pager", unit)

    assert 0 == result.returncode, result.stdout


def test_the_sandbox_check_sees_a_hole(unit: Path) -> None:
    """A unit that may do everything is beyond the threshold."""
    unit.write_text("[Service]\nExecStart=/usr/bin/true\n")

    assert 0 != analyze("security", "--offline=true", "--threshold=15", "--no-pager", unit).returncode
