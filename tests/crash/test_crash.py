"""hubsync, its children and the Hubs are killed again and again while trainers write; in the end everything is right.

``HUBSYNC_SEEDS=5 HUBSYNC_KILLS=200`` runs five histories of 200 kills. A failure names its seed and what was done.
"""

import os
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import killing
import pytest
from oracle import expect_the_end
from trainer import Trainer
from world import World

SEEDS = int(os.environ.get("HUBSYNC_SEEDS", "1"))
KILLS = int(os.environ.get("HUBSYNC_KILLS", "6"))


@pytest.fixture
def world(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[World]:
    """Give two Hubs and a hubsync."""
    made = World(tmp_path, request.node.callspec.params.get("seed", 0))
    try:
        yield made
    finally:
        made.close()


def expect_all(world: World, trainer: Trainer, seed: int) -> None:
    """Publish what is left, and look at everything."""
    print(f"seed {seed}: {len(world.kills)} kills, {dict(Counter(world.kills))}, {len(trainer.acts)} acts")  # noqa: T201
    try:
        world.end()
        expect_the_end(world, trainer)
    except AssertionError as exc:
        said = "; ".join(trainer.acts[-40:])
        raise AssertionError(f"{exc}\n\nseed {seed}, killed: {world.kills}\nlast acts: {said}") from exc


@pytest.mark.parametrize("seed", [0])
@pytest.mark.timeout(1800)
def test_killed_at_every_step_nothing_is_lost(world: World, seed: int) -> None:
    """Killed at each step from pin to record, a publication is what it would have been."""
    trainer = Trainer(world.source, seed)
    for step in killing.STEPS:
        trainer.save(large=step == "in mid upload")
        for _ in range(2):
            trainer.act()
        assert world.kill_at(step), step

    expect_all(world, trainer, seed)


@pytest.mark.parametrize("seed", range(SEEDS))
@pytest.mark.timeout(1200 + 60 * KILLS)
def test_killed_at_any_time_nothing_is_lost(world: World, seed: int) -> None:
    """Whatever is killed while trainers write, every mirror ends with all of it, and never shows a unit in part."""
    trainer = Trainer(world.source, random.Random(seed).randrange(1 << 30))
    trainer.start()
    try:
        while len(world.kills) < KILLS:
            world.kill_anything()
    finally:
        trainer.stop()

    expect_all(world, trainer, seed)
