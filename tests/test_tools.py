"""git and git-lfs as a machine may have them: missing, too old, or hanging."""

import os
import shutil
from pathlib import Path

import pytest
from support.running import Daemon, endpoint, hubsync, write_checkpoint, write_config

from hubsync.localhub import LocalHub


@pytest.mark.parametrize("command", [("run",), ("check", "--online")], ids=" ".join)
@pytest.mark.parametrize(
    ("tool", "said", "why"),
    [
        ("git", "git version 2.35.9", "git version 2.35.9 is too old"),
        (
            "git-lfs",
            "git-lfs/2.13.2 (GitHub)",
            "git-lfs/2.13.2 (GitHub) is too old",
        ),
        ("git", "", "git is not installed"),
        ("git-lfs", "", "git-lfs is not installed"),
    ],
)
def test_tools_that_will_not_do_are_refused(
    tmp_path: Path, hub: LocalHub, command: tuple[str, ...], tool: str, said: str, why: str
) -> None:
    """At the start, with what to install, before anything is made."""
    (tmp_path / "source").mkdir()
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {endpoint(hub): "acme/x"})
    tools = _link_tools(tmp_path / "tools")
    (tools / tool).unlink()
    if said:
        _write_script(tools / tool, f"echo '{said}'")

    done = hubsync(config, *command, PATH=str(tools))

    assert 78 == done.returncode
    assert why in done.stdout + done.stderr
    assert f"install {tool} " in done.stdout + done.stderr or f"apt-get install {tool}" in done.stdout + done.stderr
    assert not (tmp_path / "state").exists()


def test_a_tool_that_does_not_say_its_version_in_time_is_believed(tmp_path: Path, hub: LocalHub) -> None:
    """It hangs, as on a disk that does not answer, and may be better later."""
    write_checkpoint(tmp_path / "source" / "checkpoint-1")
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {endpoint(hub): "acme/x"})
    tools = _link_tools(tmp_path / "tools")
    git = (tools / "git").resolve()
    (tools / "git").unlink()
    _write_script(tools / "git", f'[ "$1" != version ] || exec sleep 60\nexec {git} "$@"')

    with Daemon(config, PATH=str(tools)) as daemon:
        daemon.wait_for("unit.published")
        assert 0 == daemon.stop()


@pytest.mark.parametrize("tool", ["git", "git-lfs"])
def test_a_tool_that_says_no_version_fails_the_check(tmp_path: Path, hub: LocalHub, tool: str) -> None:
    """Nobody knows what it is, though the service would believe it."""
    (tmp_path / "source").mkdir()
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {endpoint(hub): "acme/x"})
    tools = _link_tools(tmp_path / "tools")
    real = (tools / tool).resolve()
    (tools / tool).unlink()
    _write_script(tools / tool, f'[ "$1" != version ] || exit 0\nexec {real} "$@"')

    done = hubsync(config, "check", "--online", PATH=str(tools))

    assert 78 == done.returncode
    assert f"{tool}: does not say its version" in done.stdout


def _link_tools(place: Path) -> Path:
    """Fill *place* with links to all that this machine's PATH offers."""
    place.mkdir()
    for directory in reversed(os.environ["PATH"].split(":")):
        for program in Path(directory).glob("*"):
            link = place / program.name
            link.unlink(missing_ok=True)
            link.symlink_to(program)
    assert shutil.which("git-lfs", path=str(place))

    return place


def _write_script(path: Path, text: str) -> None:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
