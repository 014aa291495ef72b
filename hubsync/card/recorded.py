"""Reads how a model was trained from what trainers recorded of it: labels and values, nothing that is not there. Pure."""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import yaml

_TEXT_MOST = 120
_VALUES_MOST = 8

# What TrainingArguments calls it → what a card calls it; those that are off by default are told only when they are on.
_ARGUMENTS = {
    "learning_rate": "Learning rate",
    "per_device_train_batch_size": "Training batch size per device",
    "per_device_eval_batch_size": "Evaluation batch size per device",
    "gradient_accumulation_steps": "Gradient accumulation steps",
    "num_train_epochs": "Epochs",
    "max_steps": "Steps",
    "optim": "Optimizer",
    "adam_beta1": "Adam beta1",
    "adam_beta2": "Adam beta2",
    "adam_epsilon": "Adam epsilon",
    "lr_scheduler_type": "Learning rate scheduler",
    "warmup_ratio": "Warmup ratio",
    "warmup_steps": "Warmup steps",
    "weight_decay": "Weight decay",
    "max_grad_norm": "Gradient clipping",
    "label_smoothing_factor": "Label smoothing",
    "neftune_noise_alpha": "NEFTune noise",
    "gradient_checkpointing": "Gradient checkpointing",
    "seed": "Seed",
}
_SILENT_WHEN_OFF = frozenset(
    ("max_steps", "warmup_ratio", "warmup_steps", "weight_decay", "label_smoothing_factor", "gradient_checkpointing",
     "neftune_noise_alpha")
)  # fmt: skip
_STATE = {"train_batch_size": "Training batch size per device", "num_train_epochs": "Epochs", "max_steps": "Steps"}
_PRECISIONS = ("bf16", "fp16", "tf32")
_HARDWARE = {"_n_gpu": "GPUs", "n_gpu": "GPUs", "world_size": "Processes"}
_WANDB = {"gpu": "GPU", "gpu_count": "GPUs", "cpu_count": "CPUs"}
_ADAPTER = {
    "peft_type": "Method",
    "r": "Rank",
    "lora_alpha": "Alpha",
    "lora_dropout": "Dropout",
    "target_modules": "Target modules",
    "modules_to_save": "Modules trained in full",
    "bias": "Bias",
    "use_rslora": "Rank-stabilized",
    "use_dora": "DoRA",
    "num_virtual_tokens": "Virtual tokens",
}
_MODEL = {
    "model_type": "Type",
    "hidden_size": "Hidden size",
    "n_embd": "Hidden size",
    "num_hidden_layers": "Layers",
    "n_layer": "Layers",
    "num_attention_heads": "Attention heads",
    "n_head": "Attention heads",
    "num_key_value_heads": "Key/value heads",
    "vocab_size": "Vocabulary",
    "max_position_embeddings": "Context length",
    "n_positions": "Context length",
    "image_size": "Image size",
}
_GENERATION = (
    "do_sample", "temperature", "top_k", "top_p", "min_p", "repetition_penalty", "num_beams", "max_new_tokens", "max_length"
)  # fmt: skip
_TOKENIZER = {"tokenizer_class": "Tokenizer", "model_max_length": "Longest input", "padding_side": "Padding side"}
_PROCESSOR = {
    "image_processor_type": "Image processor",
    "feature_extractor_type": "Feature extractor",
    "size": "Size",
    "sampling_rate": "Sampling rate",
}
_NO_LIMIT = 1_000_000_000  # tokenizers write 1e30 for "no limit"

Table = dict[str, str]


def training_arguments(arguments: Mapping[str, Any]) -> Table:
    """Return the hyperparameters among *arguments*, those of transformers' Trainer."""
    quiet = {key for key in _SILENT_WHEN_OFF if not _is_on(arguments.get(key))}
    table = _pick({key: value for key, value in arguments.items() if key not in quiet}, _ARGUMENTS)
    precision = [name for name in _PRECISIONS if arguments.get(name) is True]
    if precision:
        table["Precision"] = ", ".join(precision)

    return table


def trainer_state(state: Mapping[str, Any]) -> Table:
    """Return the hyperparameters that a ``trainer_state.json`` holds."""
    return _pick({key: value for key, value in state.items() if _is_on(value)}, _STATE)


def hardware(arguments: Mapping[str, Any], wandb: Mapping[str, Any]) -> Table:
    """Return the hardware that was recorded."""
    return _pick({key: value for key, value in arguments.items() if _is_on(value)}, _HARDWARE) | _pick(wandb, _WANDB)


def adapter(config: Mapping[str, Any]) -> Table:
    """Return what an ``adapter_config.json`` says of the method."""
    return _pick({key: value for key, value in config.items() if value not in (None, False, "none")}, _ADAPTER)


def model(config: Mapping[str, Any]) -> Table:
    """Return the dimensions in a ``config.json``; a model of several parts keeps those of the text in a part."""
    part = config.get("text_config")
    return _pick({**(part if isinstance(part, dict) else {}), **config}, _MODEL)


def generation(config: Mapping[str, Any]) -> Table:
    """Return how a ``generation_config.json`` says that text is generated."""
    return _pick(config, {key: key for key in _GENERATION})


def preprocessing(tokenizer: Mapping[str, Any], processor: Mapping[str, Any], *, has_chat: bool) -> Table:
    """Return what is done to inputs."""
    longest = tokenizer.get("model_max_length")
    known = {key: value for key, value in tokenizer.items() if key != "model_max_length"}
    if isinstance(longest, int) and longest < _NO_LIMIT:
        known["model_max_length"] = longest
    table = _pick(known, _TOKENIZER) | _pick(processor, _PROCESSOR)
    if has_chat:
        table["Chat template"] = "yes"

    return table


def labels(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the classes, unless they are only numbered."""
    names = config.get("id2label")
    if not isinstance(names, dict) or not all(isinstance(name, str) for name in names.values()):
        return ()
    found = [names[key] for key in sorted(names, key=_label_number)]
    if all(name == f"LABEL_{number}" for number, name in enumerate(found)):
        return ()

    return tuple(found)


def lightning_hparams(text: str | None) -> Table:
    """Return the single values of an ``hparams.yaml``, under their own names; objects of other programs are left out."""
    import yaml  # noqa: PLC0415 - 50 ms, and many have no card

    try:
        loaded = yaml.load(text or "", _plain_loader())  # noqa: S506 - a SafeLoader
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    if not isinstance(loaded, dict):
        return {}
    flat = dict(_flatten(loaded))

    return {str(key): shown for key, value in flat.items() if (shown := show(value))}


def show(value: object) -> str:  # noqa: PLR0911 - one for each kind
    """Return *value* as a card says it; empty if it cannot be said in a line."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return show_number(value)
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return value if len(value) <= _TEXT_MOST and value.isprintable() else ""
    if isinstance(value, (list, tuple)):
        shown = [show(item) for item in value[:_VALUES_MOST]]
        more = f" and {len(value) - _VALUES_MOST} more" if len(value) > _VALUES_MOST else ""
        return ", ".join(shown) + more if shown and all(shown) else ""
    if isinstance(value, dict):
        shown = [f"{key} {show(item)}" for key, item in list(value.items())[:_VALUES_MOST] if not isinstance(item, dict)]
        return ", ".join(shown)

    return ""


def show_number(value: float) -> str:
    """Return a number as it was recorded, without a tail of zeros: ``5e-05``, ``3``."""
    return str(int(value)) if value.is_integer() and abs(value) < 1e15 else repr(value)  # noqa: PLR2004 - exact in a double


@cache
def _plain_loader() -> "type[yaml.SafeLoader]":
    """Return what reads values only: an unknown tag, such as that of a Python object, becomes nothing."""
    from yaml import SafeLoader  # noqa: PLC0415 - as above

    class PlainLoader(SafeLoader):
        pass

    PlainLoader.add_multi_constructor("", lambda _loader, _suffix, _node: None)

    return PlainLoader


def _flatten(values: Mapping[Any, Any], above: str = "") -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        name = f"{above}{key}"
        if isinstance(value, dict) and value and not above:
            yield from _flatten(value, f"{name}.")
        else:
            yield name, value


def _pick(values: Mapping[str, Any], names: Mapping[str, str]) -> Table:
    table: Table = {}
    for key, label in names.items():
        if (shown := show(values.get(key))) and label not in table:
            table[label] = shown

    return table


def _is_on(value: object) -> bool:
    return value is True or (isinstance(value, (int, float)) and value > 0)


def _label_number(key: object) -> tuple[int, str]:
    text = str(key)
    return (int(text), text) if text.isdecimal() else (len(text) + 1_000_000, text)
