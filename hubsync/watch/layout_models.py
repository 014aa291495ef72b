"""How directories of weights alone are recognised (pipelines, adapters, models), and what each lacks.

Their writers give no signal but the order in which they write, and a download or a copy has another order: where only
that tells the two apart, time decides. ``layouts`` has the table of them.
"""

import json
import re
from collections.abc import Iterator

from hubsync.watch.layout_names import directory_of, missing_shard_indexes
from hubsync.watch.layout_words import matching, needs, needs_newer, needs_renewed, needs_weights, unless_patient, weights
from hubsync.watch.unit_facts import Lack, UnitFacts

# --- diffusers: the components, each in a directory of its name, then model_index.json

_COMPONENT = re.compile(
    r"(?:vae|unet|transformer|scheduler|text_encoder|tokenizer|feature_extractor|image_encoder|safety_checker|"
    r"controlnet|vqvae|prior|decoder|image_processor|audio_vae|vocoder)(?:_\d|_prior|_decoder)?/"
)


def is_diffusers(unit: UnitFacts) -> bool:
    """Return whether the unit is a pipeline, or becomes one: directories named as components are, and no other model."""
    if "model_index.json" in unit.files:
        return True

    return any(_COMPONENT.match(path) for path in unit.files) and not any(
        "/" not in path and (path == "config.json" or path in weights(unit)) for path in unit.files
    )


def lacks_diffusers(unit: UnitFacts) -> Iterator[Lack]:
    """Every component that is named has files, and every model among them has weights."""
    yield from unless_patient(unit, needs(unit, "model_index.json"))
    for component in _named_components(unit.markers.get("model_index.json", "")):
        if not any(path.startswith(component + "/") for path in unit.files):
            yield Lack(f"model_index.json names {component}, which is missing", (component + "/",))
    filled = {directory_of(path) for path in weights(unit)}
    for path in matching(unit, r"[^/]+/config\.json"):
        if directory_of(path) not in filled:
            yield Lack(f"no weights beside {path} yet")
    yield from unless_patient(unit, needs_newer(unit, "model_index.json", weights(unit), copied=True))


def _named_components(text: str) -> list[str]:
    """Return the components that are in use: ``"vae": ["diffusers", "AutoencoderKL"]``, not ``[null, null]``."""
    try:
        index = json.loads(text)
    except (ValueError, RecursionError):
        return []
    if not isinstance(index, dict):
        return []

    return [
        name
        for name, value in sorted(index.items())
        if not name.startswith("_") and "/" not in name and isinstance(value, list) and value and value[0] is not None
    ]


# --- PEFT, models


def is_adapter(unit: UnitFacts) -> bool:
    """Return whether the unit is an adapter and nothing else."""
    return bool(matching(unit, r"(?:.*/)?adapter_(?:config\.json|model\.\w+)")) and "config.json" not in unit.files


def lacks_adapter(unit: UnitFacts) -> Iterator[Lack]:
    """The config of an adapter is written after its weights."""
    adapters = {directory_of(path) for path in matching(unit, r"(?:.*/)?adapter_(?:config\.json|model[^/]*)")}
    for directory in sorted(adapters):
        found = matching(unit, rf"{re.escape(directory)}adapter_model[^/]*\.(?:safetensors|bin)")
        if not found:
            yield Lack(f"no weights in {directory or '.'} yet")
        yield from needs(unit, f"{directory}adapter_config.json")
        yield from unless_patient(unit, needs_newer(unit, f"{directory}adapter_config.json", found, copied=True))


def is_model(unit: UnitFacts) -> bool:
    """Return whether the unit is a directory of weights."""
    return bool(unit.indexes or weights(unit)) or any(name in unit.files for name in ("config.json", "adapter_config.json"))


def lacks_model(unit: UnitFacts) -> Iterator[Lack]:
    """Weights are there, every shard that is named, and the index is as new as they are."""
    yield from needs_weights(unit)
    yield from unless_patient(unit, missing_shard_indexes(unit.files))
    for index, members in sorted(unit.indexes.items()):
        found = [path for member in members if (path := directory_of(index) + member) in unit.files]
        yield from needs_renewed(unit, index, found)
        yield from unless_patient(unit, needs_newer(unit, index, found, copied=True))


_BESIDE_A_MODEL = (
    r"(?:README\.md|[^/]+\.(?:py|jinja)|generation_config\.json|(?:added_tokens|special_tokens_map|vocab)\.json|"
    r"(?:tokenizer|processor|preprocessor)(?:_config)?\.(?:json|model))"
)


def is_beginning(unit: UnitFacts) -> bool:
    """Return whether all that is there is what writers put beside a model, and some before it (PEFT its README.md)."""
    return bool(unit.files) and len(matching(unit, _BESIDE_A_MODEL)) == len(unit.files)


def lacks_all_but_beginning(unit: UnitFacts) -> Iterator[Lack]:
    """A tokenizer alone may be all that there will be."""
    yield from unless_patient(unit, needs_weights(unit))
