"""What ``hubsync status`` tells after a ``hubsync once``, with no service anywhere."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support.rig import Rig
from support.running import endpoint, hubsync, write_config
from support.units import write_unit

from hubsync.localhub import LocalHub


@pytest.fixture
def config(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    """Give a config with one mirror on ``hub`` and one on a Hub that is not there."""
    (source / "a.txt").write_text("a")
    mirrors = {endpoint(hub): "acme/x", 'url = "http://127.0.0.1:9"': "acme/y"}
    return write_config(tmp_path / "hubsync.toml", source, mirrors)


def test_what_a_failed_once_left_is_told(config: Path) -> None:
    """It says which mirror lacks what and why; the next run that has it all ends that."""
    assert 0 != hubsync(config, "once", "--timeout", "1s").returncode

    told = hubsync(config, "status")
    assert 3 == told.returncode
    assert "not running" in told.stdout
    assert "run → m1:acme/y" in told.stdout
    assert "next try" not in told.stdout
    ok, failing = json.loads(hubsync(config, "status", "--json").stdout)["targets"][0]["mirrors"]
    assert ("ok", "failing", 0, 1) == (ok["state"], failing["state"], ok["backlog_files"], failing["backlog_files"])

    config.write_text(config.read_text().replace(', "m1:acme/y"', ""))
    assert 0 == hubsync(config, "once").returncode
    assert "acme/y" not in hubsync(config, "status").stdout


def test_what_is_held_is_shown_in_order(make_rig: Callable[..., Rig]) -> None:
    """Units by their step, not as they came."""
    rig = make_rig(units=("checkpoint-*",), complete_when=("NEVER",))
    for step in (10, 2, 9):
        write_unit(rig, step)
    rig.settle()

    assert ["checkpoint-2/", "checkpoint-9/", "checkpoint-10/"] == [one.what for one in rig.pipeline.describe_held(3)]
