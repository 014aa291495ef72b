"""Trains tiny models with the real libraries and saves often; prints what each save left, as JSON lines.

python write.py trainer /some/directory [config]
"""

import argparse
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

MARK = ".hubsync-complete"
PAUSE_S = float(os.environ.get("PAUSE_S", "0.25"))  # between steps: most saves outlive quiet, some are rotated away


def record(root: Path, unit: str) -> None:
    """Print the content of a unit, or of a loose file, as it is now: what may be published, and nothing else."""
    there = root / unit
    files = [there] if there.is_file() else [path for path in there.rglob("*") if path.is_file()]
    digests = {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if path.name != MARK
    }
    print(json.dumps({"unit": unit, "files": digests}), flush=True)  # noqa: T201 - the test reads it


# --- transformers


def _language_model() -> Any:
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(GPT2Config(n_layer=2, n_embd=64, n_head=2, vocab_size=200, n_positions=32))


def _train(root: Path, model: Any, callbacks: list[Any], **options: Any) -> None:
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    class Recorder(TrainerCallback):
        def on_save(self, _args: Any, state: Any, _control: Any, **_: Any) -> None:
            record(root, f"checkpoint-{state.global_step}")

        def on_step_end(self, *_: Any, **__: Any) -> None:
            time.sleep(PAUSE_S)

    tokens = torch.randint(0, 200, (64, 16))
    data = [{"input_ids": row, "labels": row} for row in tokens]
    settings = {"max_steps": 24, "save_steps": 2, "save_total_limit": 3, "report_to": "none", **options}
    arguments = TrainingArguments(root, use_cpu=True, per_device_train_batch_size=2, logging_steps=1, disable_tqdm=True,
                                  **settings)  # fmt: skip
    trainer = Trainer(model, arguments, train_dataset=data, callbacks=[*callbacks, Recorder()])
    trainer.train()


def trainer(root: Path, _config: str | None) -> None:
    """The Trainer with rotation."""
    _train(root, _language_model(), [])


def trainer_tensorboard(root: Path, _config: str | None) -> None:
    """The Trainer with rotation, and a TensorBoard log that grows in the source."""
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(root / "runs")
    _train(root, _language_model(), [], report_to="tensorboard", save_steps=4)


def trainer_callback(root: Path, config: str | None) -> None:
    """The Trainer with hubsync's callback, which waits at the end."""
    from hubsync.integrations.transformers import HubsyncCallback

    _train(root, _language_model(), [HubsyncCallback(wait="60s", config=config)])


def trainer_adapter(root: Path, _config: str | None) -> None:
    """The Trainer with a PEFT adapter."""
    from peft import LoraConfig, get_peft_model

    adapter = LoraConfig(r=4, target_modules=["c_attn"], fan_in_fan_out=True, task_type="CAUSAL_LM")
    _train(root, get_peft_model(_language_model(), adapter), [])


def save_pretrained(root: Path, _config: str | None) -> None:
    """A sharded model that is saved again and again in place, and beside it under new names."""
    for step in range(6):
        model = _language_model()
        for unit in ("final", f"step-{step}"):
            model.save_pretrained(root / unit, max_shard_size="100KB")
            record(root, unit)
            time.sleep(PAUSE_S)
        time.sleep(8 * PAUSE_S)


# --- torch.distributed.checkpoint


def _state(step: int, rank: int = 0) -> dict[str, Any]:
    import torch

    return {"model": {f"layer{n}": torch.full((64, 256), float(step + rank)) for n in range(4)}, "step": step}


def _rotate(root: Path, step: int, keep: int = 3) -> None:
    shutil.rmtree(root / f"step-{step - keep}", ignore_errors=True)


def dcp(root: Path, _config: str | None) -> None:
    """One process; every checkpoint under a name of its own, with rotation, and one that is saved again in place."""
    from torch.distributed import checkpoint

    for step in range(12):
        checkpoint.save(_state(step), checkpoint_id=root / f"step-{step}", no_dist=True)
        record(root, f"step-{step}")
        _rotate(root, step)
        if step % 4 == 0:
            writer = checkpoint.FileSystemWriter(root / "step-last", overwrite=True)
            checkpoint.save(_state(step), storage_writer=writer, no_dist=True)
            record(root, "step-last")
        time.sleep(2 * PAUSE_S)


def dcp_ranks(root: Path, _config: str | None) -> None:
    """Two processes with gloo; every other checkpoint is saved asynchronously."""
    import torch.multiprocessing as processes

    processes.spawn(_save_as_rank, args=(str(root),), nprocs=2)


def _save_as_rank(rank: int, directory: str) -> None:
    import torch
    import torch.distributed as dist
    from torch.distributed import checkpoint

    root = Path(directory)
    dist.init_process_group("gloo", init_method=f"file://{directory}.rendezvous", rank=rank, world_size=2)
    for step in range(10):
        state = {"shared": torch.full((64, 256), float(step)), f"of{rank}": torch.full((300, 300), float(rank))}
        unit = f"step-{step}"
        if step % 2:
            checkpoint.async_save(state, checkpoint_id=root / unit).result()
        else:
            checkpoint.save(state, checkpoint_id=root / unit)
        dist.barrier()
        if rank == 0:
            record(root, unit)
            _rotate(root, step)
        time.sleep(2 * PAUSE_S)
        dist.barrier()
    dist.destroy_process_group()


# --- Lightning, Accelerate


def _lightning_parts() -> tuple[Any, Any]:
    import torch
    from lightning.pytorch import LightningModule
    from torch.utils.data import DataLoader

    class Tiny(LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.layer = torch.nn.Linear(32, 64)

        def training_step(self, batch: Any, _number: int) -> Any:
            time.sleep(PAUSE_S / 2)
            return self.layer(batch).square().mean()

        def configure_optimizers(self) -> Any:
            return torch.optim.Adam(self.parameters())

    return Tiny(), DataLoader(torch.randn(64, 32), batch_size=2)


def lightning(root: Path, config: str | None) -> None:
    """Lightning with rotation: single files outside of units; hubsync's callback waits at the end."""
    from lightning.pytorch import Callback, Trainer
    from lightning.pytorch.callbacks import ModelCheckpoint

    from hubsync.integrations.lightning import HubsyncCallback

    class Recorder(Callback):
        def __init__(self) -> None:
            self.seen: set[tuple[str, int]] = set()

        def on_train_batch_start(self, *_: Any) -> None:
            for path in (root / "ckpt").glob("*.ckpt"):
                if (state := (path.name, path.stat().st_mtime_ns)) not in self.seen:
                    self.seen.add(state)
                    record(root, f"ckpt/{path.name}")

        on_fit_end = on_train_batch_start

    model, data = _lightning_parts()
    saving = ModelCheckpoint(root / "ckpt", every_n_train_steps=2, save_top_k=2, monitor="step", mode="max", save_last=True)
    callbacks = [Recorder(), HubsyncCallback(wait="60s", config=config), saving]
    Trainer(max_steps=24, logger=False, accelerator="cpu", enable_progress_bar=False, callbacks=callbacks).fit(model, data)


def accelerate(root: Path, _config: str | None) -> None:
    """Accelerate's save_state with automatic names and rotation."""
    import torch
    from accelerate import Accelerator
    from accelerate.utils import ProjectConfiguration

    project = ProjectConfiguration(str(root), automatic_checkpoint_naming=True, total_limit=3)
    accelerator = Accelerator(cpu=True, project_config=project)
    model = torch.nn.Linear(64, 64)
    optimizer = torch.optim.Adam(model.parameters())
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    model, optimizer, schedule = accelerator.prepare(model, optimizer, schedule)
    for step in range(12):
        model(torch.randn(4, 64)).square().mean().backward()
        optimizer.step()
        accelerator.save_state()
        record(root, f"checkpoints/checkpoint_{step}")
        time.sleep(2 * PAUSE_S)


# --- safetensors, of any version


def safetensors(root: Path, _config: str | None) -> None:
    """Shards that are written one after the other, then their index; with rotation, and one place that is used again."""
    import numpy as np
    from safetensors.numpy import save_file

    for step in range(10):
        for unit in (f"step-{step}", "final"):
            (root / unit).mkdir(exist_ok=True)
            shards = [f"model-0000{number}-of-00003.safetensors" for number in (1, 2, 3)]
            for shard in shards:
                save_file({shard: np.full((200, 200), step, np.float32)}, root / unit / shard)
                time.sleep(PAUSE_S / 4)
            index = {"metadata": {}, "weight_map": {shard: shard for shard in shards}}
            (root / unit / "model.safetensors.index.json").write_text(json.dumps(index))
            record(root, unit)
            time.sleep(PAUSE_S)
            if step % 3:
                break
        _rotate(root, step)


WRITERS: dict[str, Callable[[Path, str | None], None]] = {
    work.__name__: work
    for work in (trainer, trainer_tensorboard, trainer_callback, trainer_adapter, save_pretrained, dcp, dcp_ranks,
                 lightning, accelerate, safetensors)
}  # fmt: skip


def main() -> None:
    """Run one writer."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("writer", choices=sorted(WRITERS))
    parser.add_argument("directory", type=Path)
    parser.add_argument("config", nargs="?")
    wanted = parser.parse_args()
    WRITERS[wanted.writer](wanted.directory, wanted.config)


if __name__ == "__main__":
    main()
