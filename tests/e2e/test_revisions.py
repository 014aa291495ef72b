"""Each checkpoint is a revision that loads by its name, as people load it: huggingface_hub and safetensors."""

from pathlib import Path

import numpy as np
from outside import git, repository
from safetensors.numpy import load_file, save_file
from support.running import Daemon, digests, download, endpoint, hubsync, write_config

from hubsync.localhub import LocalHub


def save(directory: Path, step: int) -> None:
    """Write a checkpoint as the Trainer does, with real weights that name their step."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text('{"model_type": "tiny"}')
    save_file({"w": np.full((64, 64), step, np.float32)}, directory / "model.safetensors")
    (directory / "trainer_state.json").write_text(f'{{"global_step": {step}, "best_model_checkpoint": "out/checkpoint-5"}}')


def test_a_checkpoint_loads_by_its_revision(tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub) -> None:
    """Every revision downloads to the bytes of its checkpoint, main to those of the best one, on each mirror."""
    config = write_config(
        tmp_path / "hubsync.toml", source, {endpoint(each): "acme/x" for each in (hub, other_hub)},
        publish='"revisions"', main='"best"',
    )  # fmt: skip
    with Daemon(config) as daemon:
        for step in (5, 10):
            save(source / f"checkpoint-{step}", step)
            told = daemon.wait_for("unit.published", count=2, unit=f"checkpoint-{step}")
            assert f"checkpoint-{step}" == told["revision"]
        assert 0 == daemon.stop()

    for number, each in enumerate((hub, other_hub)):
        for revision, step in (("checkpoint-5", 5), ("checkpoint-10", 10), ("main", 5)):
            got = tmp_path / f"{number}-{revision}"
            download(each, "acme/x", got, revision=revision)
            assert digests(source / f"checkpoint-{step}") == digests(got)
            assert step == load_file(got / "model.safetensors")["w"][0, 0]
        assert {"main", "checkpoint-5", "checkpoint-10"} == set(
            git(repository(each), "for-each-ref", "--format=%(refname:short)", "refs/heads").split()
        )


def test_each_mirror_gets_what_it_asks_for(tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub) -> None:
    """One mirror has the weights only and another one everything; each file was read once for both."""
    config = tmp_path / "hubsync.toml"
    write_config(config, source, {endpoint(each): "acme/x" for each in (hub, other_hub)})
    config.write_text(config.read_text().replace('"m0:acme/x"', '{ repo = "m0:acme/x", include = ["weights"] }'))
    save(source / "checkpoint-5", 5)
    (source / "events.out.tfevents.1.host").write_bytes(b"")

    done = hubsync(config, "once")

    assert 0 == done.returncode, done.stderr
    weights, everything = (download(each, "acme/x", tmp_path / name) for each, name in ((hub, "w"), (other_hub, "e")))
    assert {"checkpoint-5/config.json", "checkpoint-5/model.safetensors"} == weights.keys()
    assert digests(source) == everything
