"""Writes what trainers leave behind: files as transformers' Trainer, PEFT and Lightning write them, small."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

EVENTS = Path(__file__).parent / "data" / "events.out.tfevents.1.node"  # written by tensorboardX as the Trainer's callback

LLAMA_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "vocab_size": 320,
    "torch_dtype": "float32",
    "transformers_version": "4.57.1",
}
TOKENIZER_CONFIG = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "model_max_length": 1000000000000000019884624838656,
    "padding_side": "left",
    "chat_template": "{% for message in messages %}{{ message.content }}{% endfor %}",
}


def write_json(path: Path, document: Any) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=2))


def write_weights(path: Path) -> None:
    """Write 20,480 + 4,096 parameters."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tensors = {"embed": np.zeros((320, 64), np.float32), "proj": np.zeros((64, 64), np.float16)}
    save_file(tensors, path, metadata={"format": "pt"})


def log_history(until: int, *, every: int = 10, evaluate: int = 20) -> list[dict[str, float]]:
    rows: list[dict[str, float]] = []
    for step in range(every, until + 1, every):
        epoch = step / 20
        rate = 5e-05 * (1 - step / 100)
        rows.append({"epoch": epoch, "grad_norm": 1.5, "learning_rate": rate, "loss": 25 / step, "step": step})
        if step % evaluate == 0:
            measures = {"eval_loss": 20 / step, "eval_accuracy": 0.5 + step / 250, "eval_runtime": 1.25}
            rows.append({"epoch": epoch, "step": step, **measures, "eval_steps_per_second": 9.0})

    return rows


def trainer_state(step: int) -> dict[str, Any]:
    return {
        "best_global_step": step,
        "best_metric": 0.5 + step / 250,
        "best_model_checkpoint": f"/data/run/checkpoint-{step}",
        "epoch": step / 20,
        "global_step": step,
        "is_world_process_zero": True,
        "log_history": log_history(step),
        "max_steps": 60,
        "num_train_epochs": 3,
        "train_batch_size": 8,
    }


def write_trainer_run(root: Path, steps: tuple[int, ...] = (20, 40), *, config: dict[str, Any] | None = None) -> None:
    """Write the checkpoints of a run that is still going on."""
    for step in steps:
        unit = root / f"checkpoint-{step}"
        write_json(unit / "config.json", config or LLAMA_CONFIG)
        write_json(unit / "generation_config.json", {"do_sample": True, "temperature": 0.6, "top_p": 0.9})
        write_json(unit / "tokenizer_config.json", TOKENIZER_CONFIG)
        write_weights(unit / "model.safetensors")
        write_json(unit / "trainer_state.json", trainer_state(step))
    events = root / "runs" / "Nov01_12-00-00_node" / EVENTS.name
    events.parent.mkdir(parents=True)
    events.write_bytes(EVENTS.read_bytes())


def write_peft_run(root: Path, base: str = "meta-llama/Llama-3.2-1B") -> None:
    unit = root / "checkpoint-40"
    write_json(
        unit / "adapter_config.json",
        {
            "base_model_name_or_path": base,
            "bias": "none",
            "lora_alpha": 32,
            "lora_dropout": 0.05,
            "modules_to_save": None,
            "peft_type": "LORA",
            "peft_version": "0.17.1",
            "r": 16,
            "target_modules": ["q_proj", "v_proj"],
            "task_type": "CAUSAL_LM",
            "use_dora": False,
            "use_rslora": False,
        },
    )
    write_weights(unit / "adapter_model.safetensors")
    write_json(unit / "trainer_state.json", trainer_state(40))


LIGHTNING_HPARAMS = """\
learning_rate: 0.001
batch_size: 32
optimizer: AdamW
seed: 7
precision: bf16-mixed
layers:
- 128
- 64
callback: !!python/object:__main__.Callback
  secret: 1
path: !!python/object/apply:pathlib.PosixPath
- /
- data
data:
  name: mnist
  workers: 4
"""
LIGHTNING_METRICS = """\
epoch,lr-AdamW,step,train_loss,val_acc,val_loss
,0.001,49,,,
0,,49,0.91,,
0,,99,,0.81,0.62
,0.0005,99,,,
1,,149,0.41,,
1,,199,,0.91,0.32
"""


def write_lightning_run(root: Path) -> None:
    for version, metrics in ((0, "epoch,step,val_loss\n0,9,9.5\n"), (10, LIGHTNING_METRICS)):
        logs = root / "lightning_logs" / f"version_{version}"
        logs.mkdir(parents=True)
        (logs / "hparams.yaml").write_text(LIGHTNING_HPARAMS if version else "learning_rate: 9\n")
        (logs / "metrics.csv").write_text(metrics)
    checkpoints = root / "lightning_logs" / "version_10" / "checkpoints"
    checkpoints.mkdir()
    (checkpoints / "epoch=1-step=200.ckpt").write_bytes(b"PK\x05\x06" + b"\0" * 18)
