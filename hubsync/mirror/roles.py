"""Names sets of files for a mirror's ``include`` and ``exclude``: to load a model, to resume a run, its logs. Pure."""

import functools
from collections.abc import Iterable

from hubsync.config.model import Mirror
from hubsync.watch.rules import PathRules

_STATE = (
    "optimizer*",
    "scheduler.pt",
    "scheduler.bin",
    "scaler.pt",
    "scaler.bin",
    "sampler*.bin",
    "rng_state*",
    "random_states_*",
    "custom_checkpoint_*",
    "training_args.bin",
    "trainer_state.json",
    "training_state*",
    "train_state*",
    "*optim_states.pt",
    "*model_states.pt",  # DeepSpeed's, in its own partitioning
    "**/global_step*/**",
    "*.distcp",
    ".metadata",
)
_WEIGHTS = (
    "*.safetensors",
    "*.gguf",
    "*.bin",
    "*.pt",
    "*.pth",
    "*.ckpt",
    "*.onnx",
    "*.onnx_data",
    "*.h5",
    "*.msgpack",
    "*.tflite",
    "*.index.json",
    # What a model is loaded with.
    "config.json",
    "*_config.json",
    "model_index.json",
    "modules.json",
    "tokenizer*",
    "vocab*",
    "merges.txt",
    "*.model",
    "*.tiktoken",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template*",
    "*.jinja",
    "*.py",
    "README.md",
    "LICENSE*",
)
_LOGS = ("*tfevents*", "*.log", "**/logs/**", "**/wandb/**", "**/mlruns/**", "metrics.csv", "trainer_log.jsonl")

_MIRRORS_KEPT = 64

# What a role stands for in `include`. A later pattern wins, as in gitignore.
_INCLUDED = {
    "weights": (*_WEIGHTS, *(f"!{pattern}" for pattern in _STATE)),
    "resume": ("**", *(f"!{pattern}" for pattern in _LOGS)),
    "logs": _LOGS,
}
# In `exclude`, "resume" is what only resuming needs: to leave out the weights as well is nobody's wish.
_EXCLUDED = {**_INCLUDED, "resume": _STATE}

ROLES = tuple(_INCLUDED)


def expand_include(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return *patterns* with the patterns of each role in its place."""
    return tuple(each for pattern in patterns for each in _INCLUDED.get(pattern, (pattern,)))


def expand_exclude(patterns: Iterable[str]) -> tuple[str, ...]:
    """Return *patterns* with the patterns of each role in its place."""
    return tuple(each for pattern in patterns for each in _EXCLUDED.get(pattern, (pattern,)))


def mirror_rules(mirror: Mirror) -> PathRules:
    """Return the rules that say what of a target *mirror* gets."""
    return _compile_rules(mirror.include, mirror.exclude)


@functools.lru_cache(_MIRRORS_KEPT)  # asked for with each status and each batch; what is compiled is garbage in a circle
def _compile_rules(include: tuple[str, ...], exclude: tuple[str, ...]) -> PathRules:
    return PathRules(expand_include(include), expand_exclude(exclude))
