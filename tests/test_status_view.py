"""`hubsync status` answers at once."""

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest
from support.running import write_config

from hubsync.config.glance import glance_at
from hubsync.config.load import load_config
from hubsync.monitor.status import DaemonStatus, Status, write_status


def test_status_imports_nothing_that_takes_long(tmp_path: Path) -> None:
    """It answers before what publishes would have been imported; a config that the daemon took over needs no check."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    mark = load_config(config, {}).mark
    now = datetime.now(UTC)
    (tmp_path / "state").mkdir()
    write_status(tmp_path / "state" / "status.json", Status(DaemonStatus(1, "1", now, now, config_mark=mark)))
    argv = [sys.executable, "-X", "importtime", "-m", "hubsync", "-c", str(config), "status"]
    said = subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False, env={"PATH": os.environ["PATH"]})
    imported = {line.rpartition("|")[2].strip() for line in said.stderr.splitlines()}

    assert 3 == said.returncode
    assert "hubsync.status_view" in imported
    assert set() == imported & {
        "pydantic",
        "structlog",
        "git",
        "rich",
        "huggingface_hub",
        "apscheduler",
        "hubsync.config.load",
    }


@pytest.mark.parametrize("edit", ["append", "include", "break"])
def test_an_edited_config_is_checked_again(tmp_path: Path, edit: str) -> None:
    """Whether it is the file itself that was edited or one that it includes, its mark is another one."""
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "source", {'url = "http://127.0.0.1:1"': "acme/x"})
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "a.toml").write_text("")
    config.write_text('include = ["more/*.toml"]\n' + config.read_text())
    mark = load_config(config, {}).mark
    before = glance_at(config, {})
    if edit == "append":
        config.write_text(config.read_text() + "\n# a word\n")
    elif edit == "include":
        (tmp_path / "more" / "b.toml").write_text("")
    else:
        config.write_text("[[target")
    after = glance_at(config, {})

    assert before is not None
    assert (tmp_path / "state", mark) == (before.state_dir, before.mark)
    assert after is None or after.mark != mark
