"""What the callbacks do, without the frameworks that call them; those are in ``make test-writers``."""

import importlib
import importlib.util
import logging
from pathlib import Path

import pytest
from support.rig import Rig, safetensors
from support.running import Daemon, endpoint, write_config

from hubsync.integrations.reporter import Reporter, mark_complete
from hubsync.localhub import LocalHub
from hubsync.watch.unit_facts import MARK

UNIT = "checkpoint-5"


@pytest.mark.parametrize("framework", ["transformers", "lightning"])
def test_a_callback_says_what_it_needs(framework: str) -> None:
    """Without its framework, importing a callback fails with the cure; importing the package does not fail."""
    assert importlib.util.find_spec(framework) is None
    assert importlib.import_module("hubsync.integrations")
    with pytest.raises(ImportError, match=f"pip install {framework}"):
        importlib.import_module(f"hubsync.integrations.{framework}")


def test_a_mark_completes_a_unit_and_stays_here(tmp_path: Path) -> None:
    """A unit that no layout calls complete is taken when it is marked; the event of the mark is enough."""
    with Rig(tmp_path, [], units=("checkpoint-*",)) as rig:
        rig.write(f"{UNIT}/model.safetensors", safetensors(100))
        rig.settle()
        assert [] == rig.commit()

        assert mark_complete(rig.source / UNIT)
        rig.pipeline.note(f"{UNIT}/{MARK}")
        assert 1 == len(rig.pipeline.commit())
        assert {f"{UNIT}/model.safetensors"} == rig.store.ledger.tree_paths()


def test_the_last_checkpoint_is_waited_for(tmp_path: Path) -> None:
    """The target is found by the path, and the wait ends when the unit is published."""
    source = tmp_path / "run"
    (source / UNIT).mkdir(parents=True)
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"}, schedule='"manual"')
        reporter = Reporter("50s", config)
        with Daemon(config) as daemon:
            daemon.wait_for("daemon.ready")
            (source / UNIT / "model.safetensors").write_bytes(safetensors(100))
            reporter.note_saved(source / UNIT)
            assert reporter.wait()
            daemon.wait_for("unit.published", unit=UNIT)


def test_a_training_goes_on_without_hubsync(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """No daemon, no config, a directory outside of all sources, or one that is gone: each is one warning."""
    directory = tmp_path / "run" / UNIT
    directory.mkdir(parents=True)
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "run", {'url = "http://127.0.0.1:9"': "acme/x"})
    outside = tmp_path / UNIT
    outside.mkdir()
    with caplog.at_level(logging.WARNING, logger="hubsync"):
        for path, file in ((directory, config), (directory, tmp_path / "no.toml"), (outside, config)):
            reporter = Reporter("1s", file)
            reporter.note_saved(path)
            assert not reporter.wait()
        assert not mark_complete(tmp_path / "gone")

    assert 4 == len(caplog.records), caplog.text


def test_nothing_is_waited_for_unless_it_is_wanted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Without a time, or before anything was saved, a callback ends at once and says nothing."""
    reporter = Reporter()
    reporter.note_saved(tmp_path)
    assert not reporter.wait()
    assert not Reporter("1h").wait()
    assert "" == caplog.text
