"""Loads what was checked out, with the library that wrote it: one line `WRITER PATH` each on standard input.

Prints what cannot be loaded, and ends with 1 if there is any.
"""

import json
import sys
import traceback
from pathlib import Path
from typing import Any


def load_trainer(unit: Path) -> None:
    """Load weights as a user does, and all that is needed to resume."""
    import torch
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(unit, output_loading_info=True)
    assert not info["missing_keys"], info
    step = json.loads((unit / "trainer_state.json").read_text())["global_step"]
    assert unit.name == f"checkpoint-{step}"
    for name in ("optimizer.pt", "scheduler.pt", "rng_state.pth", "training_args.bin"):
        torch.load(unit / name, weights_only=False)


def load_adapter(unit: Path) -> None:
    """Load an adapter on its base."""
    from peft import PeftConfig
    from safetensors.torch import load_file

    PeftConfig.from_pretrained(str(unit))
    assert load_file(unit / "adapter_model.safetensors")
    assert (unit / "optimizer.pt").stat().st_size


def load_model(unit: Path) -> None:
    """Load a model directory."""
    from transformers import AutoModelForCausalLM

    _, info = AutoModelForCausalLM.from_pretrained(unit, output_loading_info=True)
    assert not info["missing_keys"], info


def load_dcp(unit: Path) -> None:
    """Load every tensor of a distributed checkpoint."""
    import torch
    from torch.distributed import checkpoint

    metadata = checkpoint.FileSystemReader(unit).read_metadata().state_dict_metadata
    state: dict[str, Any] = {
        name: torch.empty(one.size, dtype=one.properties.dtype) for name, one in metadata.items() if hasattr(one, "size")
    }
    checkpoint.load(state, checkpoint_id=unit, no_dist=True)
    assert all(len(tensor.unique()) == 1 for tensor in state.values()), "tensors of two saves in one"


def load_lightning(file: Path) -> None:
    """Load a checkpoint of Lightning's."""
    import torch

    if file.suffix == ".ckpt":
        assert {"state_dict", "optimizer_states", "global_step"} <= torch.load(file, weights_only=False).keys()


def load_accelerate(unit: Path) -> None:
    """Load a state as `load_state` does."""
    import torch
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    accelerator.prepare(model, optimizer, schedule)
    accelerator.load_state(str(unit))


def load_safetensors(unit: Path) -> None:
    """Load every shard that the index names; all are of one save."""
    from safetensors.numpy import load_file

    shards = json.loads((unit / "model.safetensors.index.json").read_text())["weight_map"].values()
    values = {float(array.flat[0]) for shard in shards for array in load_file(unit / shard).values()}
    assert len(values) == 1, values


def load_events(file: Path) -> None:
    """Read all records of a TensorBoard log."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader

    assert len(list(RawEventFileLoader(str(file)).Load())) > 0


LOADERS = {
    "trainer": load_trainer, "trainer_tensorboard": load_trainer, "trainer_callback": load_trainer,
    "trainer_adapter": load_adapter, "save_pretrained": load_model, "dcp": load_dcp, "dcp_ranks": load_dcp,
    "lightning": load_lightning, "accelerate": load_accelerate, "safetensors": load_safetensors,
}  # fmt: skip


def main() -> int:
    """Load all; return 1 if something cannot be."""
    failed = 0
    for line in sys.stdin.read().splitlines():
        writer, path = line.split(" ", 1)
        try:
            (load_events if "tfevents" in path else LOADERS[writer])(Path(path))
        except Exception:  # noqa: BLE001 - the test wants to hear of all
            failed += 1
            print(f"{writer} {path}: {traceback.format_exc()}")  # noqa: T201 - for the test

    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
