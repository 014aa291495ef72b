"""Replays the writers of checkpoints, one operation after another, in this process or as one of its own.

python replay.py trainer /some/directory --pause 0.2 --stop-after 5
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import clusters
import hugging_face as hf
from disk import Disk, Step, Steps


@dataclass(frozen=True, slots=True)
class Writer:
    """A writer, the units that it may leave, and whether it may save into the same place again."""

    write: Callable[[Disk], Steps]
    units: tuple[str, ...]
    again: bool = False
    complete_when: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Return what it is called on the command line."""
        return self.write.__name__


_CKPT = "run/epoch=0-step=10.ckpt"
WRITERS = {
    writer.name: writer
    for writer in (
        Writer(hf.trainer, (hf.CHECKPOINT,), again=True),
        Writer(hf.trainer_weights_only, (hf.CHECKPOINT,), again=True),
        Writer(hf.marked, (hf.CHECKPOINT,), again=True),
        Writer(hf.trainer_adapter, (hf.CHECKPOINT,), again=True),
        Writer(hf.trainer_ranks, (hf.CHECKPOINT,), again=True),
        Writer(hf.trainer_fsdp, (hf.CHECKPOINT,), again=True),
        Writer(hf.trainer_deepspeed, (hf.CHECKPOINT,), again=True),
        Writer(hf.trainer_interrupted, (hf.CHECKPOINT,), again=True),
        Writer(hf.save_model, ("checkpoint-final",)),
        Writer(hf.sharded_model, ("final",), again=True),
        Writer(hf.adapter, ("adapter",), again=True),
        Writer(hf.accelerate, ("checkpoint_0",), again=True),
        Writer(hf.accelerate_fsdp, (hf.CHECKPOINT,), again=True),
        Writer(hf.accelerate_deepspeed, ("checkpoint_3",), again=True),
        Writer(hf.diffusers, ("pipeline",), again=True),
        Writer(hf.lerobot, ("checkpoints/005000",), again=True),
        Writer(hf.lerobot_first, ("checkpoints/005000",), again=True),
        Writer(clusters.torchtitan, ("step-100",), again=True),
        Writer(clusters.deepspeed, ("run/global_step500",), again=True),
        Writer(clusters.deepspeed_first, ("run/best",), again=True),
        Writer(clusters.megatron, ("run/iter_0000500",), again=True),
        Writer(clusters.megatron_legacy, ("run/iter_0000500",), again=True),
        Writer(clusters.verl, ("run/global_step_10",), again=True),
        Writer(clusters.nemo, ("run/model--val_loss=1.00-step=100-last",), again=True),
        Writer(clusters.lightning_sharded, (_CKPT,), again=True),
        Writer(clusters.lightning_file, ("run",), again=True),
        Writer(clusters.lightning_deepspeed, (_CKPT,), again=True),
        Writer(clusters.olmo_core, ("run/step1000", "run/step1000-tmp")),
        Writer(clusters.olmo_core_async, ("run/step1000", "run/step1000-tmp")),
        Writer(clusters.orbax, ("run/100", "run/100.orbax-checkpoint-tmp-17")),
        Writer(clusters.orbax_commit_file, ("run/100",)),
        Writer(clusters.quantizer, ("gguf",), again=True),
        Writer(clusters.own_signal, ("own",), again=True, complete_when=("_SUCCESS",)),
        Writer(clusters.old_safetensors, ("old",), again=True),
    )
}


def replay(writer: Writer, disk: Disk, *, pause_s: float = 0.0, stop_after: int | None = None) -> Iterator[Step]:
    """Do the operations of *writer*, at most *stop_after*; yield what each did, and rest *pause_s* after it."""
    for step in islice(writer.write(disk), stop_after):
        yield step
        time.sleep(pause_s)


def main() -> None:
    """Replay one writer."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("writer", choices=sorted(WRITERS))
    parser.add_argument("directory", type=Path)
    parser.add_argument("--pause", type=float, default=0.0, help="seconds after each operation")
    parser.add_argument("--stop-after", type=int, help="operations, then the writer dies")
    wanted = parser.parse_args()
    for step in replay(WRITERS[wanted.writer], Disk(wanted.directory), pause_s=wanted.pause, stop_after=wanted.stop_after):
        print(f"{type(step).__name__.lower()}: {step}", flush=True)  # noqa: T201  the tests read it


if __name__ == "__main__":
    main()
