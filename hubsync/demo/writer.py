"""A small but real writer: saves checkpoints in the files and the order of transformers' Trainer, and rotates them.

It is a program of its own (``python -m hubsync.demo.writer DIRECTORY ...``) and knows nothing of hubsync. On standard
output it says what it did, one JSON object per line, with the SHA-256 of every file as it was written.
"""

import argparse
import io
import json
import pickle
import shutil
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from hubsync.demo.record import digest

KEPT = 2  # save_total_limit
STEPS = 100  # between checkpoints
SHARDS = 3
_VOCABULARY = 4000
_HALF = 2  # bytes of a float16
_OPTIMIZER_SHARE = 4  # of the weights' size, one part in four
_LOGGED_EVERY = 10


class Run:
    """One training run that is being saved into *directory*."""

    def __init__(self, directory: Path, checkpoint_bytes: int, pace_s: float) -> None:
        self._directory = directory
        self._shard_bytes = checkpoint_bytes * _OPTIMIZER_SHARE // (_OPTIMIZER_SHARE + 1) // SHARDS
        self._optimizer_bytes = checkpoint_bytes // (_OPTIMIZER_SHARE + 1)
        self._pace_s = pace_s
        self._random = np.random.default_rng(0)
        self._weights: list[dict[str, np.ndarray]] = []
        self._losses: list[dict[str, float]] = []
        self._named: set[str] = set()

    def train(self, checkpoints: int) -> None:
        """Train, save, rotate; at the end the model is saved beside the checkpoints, as ``save_model`` does."""
        for number in range(1, checkpoints + 1):
            step = number * STEPS
            self._step_to(step)
            self._save_checkpoint(step)
            if number > KEPT:
                self._delete(f"checkpoint-{(number - KEPT) * STEPS}")
        self._save_model("")
        self._note_written("train_log.jsonl")
        tell("finished")

    def _step_to(self, step: int) -> None:
        """Train: new weights, a falling loss, a line in the log for every tenth step."""
        for at in range(step - STEPS + _LOGGED_EVERY, step + 1, _LOGGED_EVERY):
            loss = round(2.2 + 8 / (1 + at / 60) + float(self._random.normal(0, 0.02)), 4)
            self._losses.append({"step": at, "loss": loss, "learning_rate": 3e-4 * (1 - at / 1000)})
            with (self._directory / "train_log.jsonl").open("a") as log:
                log.write(json.dumps(self._losses[-1]) + "\n")
            time.sleep(self._pace_s / 4)
        self._weights = [self._make_shard(number) for number in range(SHARDS)]

    def _make_shard(self, number: int) -> dict[str, np.ndarray]:
        width = 512
        rows = max(1, self._shard_bytes // _HALF // width // 2)
        names = (f"model.layers.{number}.self_attn.q_proj.weight", f"model.layers.{number}.mlp.up_proj.weight")
        return {name: self._random.standard_normal((rows, width), np.float32).astype(np.float16) for name in names}

    def _save_checkpoint(self, step: int) -> None:
        unit = f"checkpoint-{step}"
        tell("saving", unit=unit)
        (self._directory / unit).mkdir()
        self._save_model(f"{unit}/")
        self._write(f"{unit}/optimizer.pt", torch_zip(self._random.bytes(self._optimizer_bytes)))
        self._write(f"{unit}/scheduler.pt", torch_zip(b"\0" * 256))
        self._write(f"{unit}/rng_state.pth", torch_zip(self._random.bytes(5056)))
        self._write_json(f"{unit}/trainer_state.json", self._trainer_state(step))
        tell("saved", unit=unit, at=time.time())

    def _save_model(self, prefix: str) -> None:
        """Save what ``save_pretrained`` saves: config, shards, their index, tokenizer."""
        self._write_json(f"{prefix}config.json", _CONFIG)
        self._write_json(f"{prefix}generation_config.json", {"bos_token_id": 1, "eos_token_id": 2})
        placed: dict[str, str] = {}
        for number, shard in enumerate(self._weights, start=1):
            name = f"model-{number:05}-of-{SHARDS:05}.safetensors"
            path = self._directory / f"{prefix}{name}"
            save_file(shard, path, metadata={"format": "pt"})
            self._note_written(f"{prefix}{name}")
            placed |= dict.fromkeys(shard, name)
            time.sleep(self._pace_s)
        size = sum(array.nbytes for shard in self._weights for array in shard.values())
        self._write_json(f"{prefix}model.safetensors.index.json", {"metadata": {"total_size": size}, "weight_map": placed})
        self._write_json(f"{prefix}tokenizer.json", make_tokenizer())
        self._write_json(f"{prefix}tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
        self._write(f"{prefix}training_args.bin", torch_zip(b"\0" * 4096))

    def _trainer_state(self, step: int) -> dict[str, object]:
        return {
            "global_step": step,
            "max_steps": 1000,
            "epoch": step / 1000,
            "log_history": self._losses,
            "best_metric": min(entry["loss"] for entry in self._losses),
        }

    def _delete(self, unit: str) -> None:
        """Delete *unit* once a line of standard input names it, if it is open: the show goes on on slow machines, too."""
        while unit not in self._named and (line := sys.stdin.readline()):
            self._named.add(line.strip())
        shutil.rmtree(self._directory / unit)
        tell("deleted", unit=unit)

    def _write_json(self, path: str, document: object) -> None:
        self._write(path, (json.dumps(document, indent=2) + "\n").encode())

    def _write(self, path: str, content: bytes) -> None:
        (self._directory / path).write_bytes(content)
        self._note_written(path)

    def _note_written(self, path: str) -> None:
        record = digest(self._directory / path)
        tell("written", path=path, **record._asdict())


def torch_zip(content: bytes) -> bytes:
    """Return *content* in the container of ``torch.save``: an uncompressed zip with one storage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"bytes": len(content)}, protocol=2))
        archive.writestr("archive/data/0", content)
        archive.writestr("archive/version", "3\n")

    return file.getvalue()


def make_tokenizer() -> dict[str, object]:
    """Return a small tokenizer in the format of the tokenizers library."""
    special = {"<unk>": 0, "<s>": 1, "</s>": 2}
    vocabulary = special | {f"tok{number}": number for number in range(len(special), _VOCABULARY)}
    return {"version": "1.0", "model": {"type": "WordLevel", "vocab": vocabulary, "unk_token": "<unk>"}}


def tell(event: str, **fields: object) -> None:
    """Say what was done."""
    sys.stdout.write(json.dumps({"event": event, **fields}) + "\n")
    sys.stdout.flush()


_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 512,
    "model_type": "llama",
    "num_hidden_layers": SHARDS,
    "torch_dtype": "float16",
    "vocab_size": _VOCABULARY,
}


def main(argv: list[str] | None = None) -> None:
    """Run the writer."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("directory", type=Path)
    parser.add_argument("--size-mb", type=float, required=True, help="of all checkpoints together")
    parser.add_argument("--checkpoints", type=int, required=True)
    parser.add_argument("--pace", type=float, required=True, help="seconds between two shards")
    given = parser.parse_args(argv)
    given.directory.mkdir(parents=True, exist_ok=True)
    Run(given.directory, int(given.size_mb * 1e6 / given.checkpoints), given.pace).train(given.checkpoints)


if __name__ == "__main__":
    main()
