"""Collects the facts of a model from the files of a run. Each stands in some file; what stands in none is left out."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from msgspec import Struct, field

from hubsync.card import recorded
from hubsync.card.files import Files, is_events
from hubsync.card.history import (
    History,
    Point,
    is_evaluation,
    latest_evaluation,
    read_json,
    read_metrics_csv,
    read_scalars,
    read_trainer_log,
)
from hubsync.card.recorded import Table
from hubsync.card.tasks import Task, task_of, task_of_adapter
from hubsync.card.weights import Weights, sum_weights

_WEIGHTS = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".gguf", ".onnx", ".h5", ".msgpack")
_NO_WEIGHTS = re.compile(r"(?:training_args|optimizer|scheduler|scaler|rng_state|random_states).*")
_STEP = re.compile(r"(?:.*\D)?(\d+)\D*")
_CONFIGS = ("adapter_config.json", "config.json", "model_index.json", "modules.json")
_MODEL_FILES = (*_CONFIGS, "model.safetensors.index.json")
_RESULT_FILES = ("all_results.json", "eval_results.json", "test_results.json")
_PROCESSORS = (  # the file that tells → the class that loads it
    ("processor_config.json", "AutoProcessor"),
    ("tokenizer_config.json", "AutoTokenizer"),
    ("tokenizer.json", "AutoTokenizer"),
    ("preprocessor_config.json", "AutoImageProcessor"),
)


class Unit(Struct, frozen=True):
    """A unit that is published: its name, and where a mirror shows it."""

    name: str
    subfolder: str = ""
    revision: str = ""


class UnitRow(Struct, frozen=True):
    """What the table of units says of one."""

    unit: Unit
    step: int | None
    metric: float | None
    bytes: int


class Facts(Struct, frozen=True):
    """What the files say of a model.

    Attributes:
        home: the directory of the source that holds the model.
        base_models: as they were recorded; some may be paths of the machine.
        processor: the Auto class of what goes before the model; empty if there is nothing.
        results: the metrics of the last evaluation, and *results_at* where in the history it was, if it was there.
        metric: the name of the metric that tells units apart.
        units: the newest one first.
    """

    home: str = ""
    library: str = ""
    architecture: str = ""
    task: Task | None = None
    is_adapter: bool = False
    base_models: tuple[str, ...] = ()
    processor: str = ""
    weights: Weights | None = None
    weight_files: tuple[str, ...] = ()
    model: Table = field(default_factory=dict)
    adapter: Table = field(default_factory=dict)
    generation: Table = field(default_factory=dict)
    preprocessing: Table = field(default_factory=dict)
    labels: tuple[str, ...] = ()
    hyperparameters: Table = field(default_factory=dict)
    hardware: Table = field(default_factory=dict)
    versions: Table = field(default_factory=dict)
    history: History = ()
    results: Mapping[str, float] = field(default_factory=dict)
    results_at: Point | None = None
    metric: str = ""
    best: float | None = None
    best_unit: str = ""
    is_trainer: bool = False
    units: tuple[UnitRow, ...] = ()


class _Reader:
    """Reads files of one directory first, then of the whole source."""

    def __init__(self, files: Files, home: str) -> None:
        self.files = files
        self.home = home

    def json(self, name: str) -> dict[str, Any]:
        return read_json(self.files.text(self._at(name)))

    def has(self, name: str) -> bool:
        return self._at(name) in self.files.sizes

    def names(self) -> list[str]:
        prefix = self._at("")
        inside = (path[len(prefix) :] for path in self.files.sizes if path.startswith(prefix))
        return sorted(name for name in inside if "/" not in name)

    def _at(self, name: str) -> str:
        return f"{self.home}/{name}" if self.home else name


def read_facts(files: Files, units: Sequence[Unit], metric: str = "", home: str | None = None) -> Facts:
    """Return the facts of the model in *home*, by default where the newest whole model lies.

    *units* come oldest first; *metric* is the one to compare them by, if the operator has said so.
    """
    state = _newest_state(files, units, home)
    if home is None:
        home = choose_home(files, units)
    reader = _Reader(files, home)
    events = _read_event_texts(files)
    arguments = _read_arguments(files, events)
    history = read_trainer_log(state) or _read_other_history(files)
    results, results_at = _read_results(files, home, history, _step_of(home, files))
    metric = _choose_metric((metric, _said_metric(arguments), _best_metric(state, history), "loss"), history)
    best = state.get("best_metric")
    best_unit = state.get("best_model_checkpoint")

    return Facts(
        home=home,
        **_read_model(reader),
        hyperparameters=_read_hyperparameters(files, state, arguments),
        hardware=recorded.hardware(arguments, read_json(_newest_text(files, "wandb-metadata.json"))),
        history=history,
        results=results,
        results_at=results_at,
        metric=metric,
        best=float(best) if isinstance(best, (int, float)) and not isinstance(best, bool) else None,
        best_unit=best_unit.rstrip("/").rpartition("/")[2] if isinstance(best_unit, str) else "",
        is_trainer=bool(state) or "per_device_train_batch_size" in arguments,
        units=_read_units(files, units, metric, history),
    )


def choose_home(files: Files, units: Sequence[Unit]) -> str:
    """Return where the model lies: at the top, else in the newest unit, else in the only directory that has one."""
    named = (path.rpartition("/") for path in files.sizes)
    holding = {directory for directory, _, name in named if name in _MODEL_FILES or is_weights(name)}
    for place in ("", *(unit.name for unit in reversed(units))):
        if place in holding:
            return place

    return holding.pop() if len(holding) == 1 else ""


def is_weights(name: str) -> bool:
    """Tell whether the file *name* holds weights."""
    return name.endswith(_WEIGHTS) and not _NO_WEIGHTS.fullmatch(name)


# --- the model


def _read_model(reader: _Reader) -> dict[str, Any]:
    config, adapter = reader.json("config.json"), reader.json("adapter_config.json")
    architectures = config.get("architectures")
    architecture = architectures[0] if isinstance(architectures, list) and architectures else ""
    architecture = architecture if isinstance(architecture, str) else ""
    weight_files = tuple(name for name in reader.names() if is_weights(name))
    tokenizer, processor = reader.json("tokenizer_config.json"), reader.json("preprocessor_config.json")
    has_chat = "chat_template" in tokenizer or reader.has("chat_template.jinja")
    task = (
        task_of_adapter(adapter.get("task_type")) if adapter else task_of(architecture, str(config.get("model_type", "")))
    )

    return {
        "library": _library(reader, config, adapter, weight_files),
        "architecture": architecture,
        "task": task,
        "is_adapter": bool(adapter),
        "base_models": _base_models(config, adapter),
        "processor": _processor(reader, processor),
        "weights": _read_weights(reader, weight_files),
        "weight_files": weight_files,
        "model": {} if adapter else recorded.model(config),
        "adapter": recorded.adapter(adapter),
        "generation": recorded.generation(reader.json("generation_config.json")),
        "preprocessing": recorded.preprocessing(tokenizer, processor, has_chat=has_chat),
        "labels": recorded.labels(config),
        "versions": _versions(reader, config, adapter),
    }


def _library(reader: _Reader, config: Mapping[str, Any], adapter: Mapping[str, Any], weight_files: Sequence[str]) -> str:
    if adapter:
        return "peft"
    if reader.has("model_index.json"):
        return "diffusers"
    if reader.has("modules.json") and reader.has("config_sentence_transformers.json"):
        return "sentence-transformers"
    if "model_type" in config and isinstance(config.get("architectures"), list):
        return "transformers"
    if weight_files and all(name.endswith(".ckpt") for name in weight_files):
        return "pytorch-lightning"

    return ""


def _processor(reader: _Reader, preprocessor: Mapping[str, Any]) -> str:
    for name, loader in _PROCESSORS:
        if reader.has(name):
            is_audio = name == "preprocessor_config.json" and "feature_extractor_type" in preprocessor
            return "AutoFeatureExtractor" if is_audio else loader

    return ""


def _base_models(config: Mapping[str, Any], adapter: Mapping[str, Any]) -> tuple[str, ...]:
    base = adapter.get("base_model_name_or_path") if adapter else config.get("_name_or_path")
    return (base,) if isinstance(base, str) and base else ()


def _read_weights(reader: _Reader, weight_files: Iterable[str]) -> Weights | None:
    """Count the parameters, if every file of weights tells."""
    counted = []
    for name in weight_files:
        path = f"{reader.home}/{name}" if reader.home else name
        digest = reader.files.digest(path)
        if digest is None or "dtypes" not in digest:
            return None
        counted.append((digest["dtypes"], reader.files.sizes[path]))

    return sum_weights(counted)


def _versions(reader: _Reader, config: Mapping[str, Any], adapter: Mapping[str, Any]) -> Table:
    index = reader.json("model_index.json")
    found = {
        "Transformers": config.get("transformers_version"),
        "PEFT": adapter.get("peft_version"),
        "Diffusers": index.get("_diffusers_version"),
    }
    st_version = reader.json("config_sentence_transformers.json").get("__version__")
    if isinstance(st_version, dict):
        found["Sentence Transformers"] = st_version.get("sentence_transformers")

    return {name: version for name, version in found.items() if isinstance(version, str) and version}


# --- the training


def _newest_state(files: Files, units: Sequence[Unit], home: str | None) -> dict[str, Any]:
    """Return the ``trainer_state.json`` of *home* if it is given, else the one that goes furthest."""
    places = [home] if home is not None else ["", *(unit.name for unit in reversed(units))]
    newest: dict[str, Any] = {}
    for place in places[:3]:  # the top, and the newest two
        state = _Reader(files, place).json("trainer_state.json")
        if _steps(state) > _steps(newest):
            newest = state

    return newest


def _steps(state: Mapping[str, Any]) -> int:
    step = state.get("global_step", 0 if state else -1)
    return step if isinstance(step, int) else 0


def _read_arguments(files: Files, events: Mapping[str, str]) -> dict[str, Any]:
    """Return the arguments of the Trainer: in JSON, or as its callback for TensorBoard has left them."""
    recorded_text = events.get("args/text_summary", events.get("args", ""))
    return read_json(_newest_text(files, "training_args.json")) or read_json(recorded_text)


def _read_hyperparameters(files: Files, state: Mapping[str, Any], arguments: Mapping[str, Any]) -> Table:
    table = recorded.training_arguments(arguments)
    for more in (recorded.trainer_state(state), recorded.lightning_hparams(_newest_text(files, "hparams.yaml"))):
        table |= {label: value for label, value in more.items() if label not in table}

    return table


def _read_event_texts(files: Files) -> dict[str, str]:
    for path in _newest_paths(files, is_events):
        digest = files.digest(path)
        if digest and digest.get("texts"):
            return dict(digest["texts"])

    return {}


def _read_other_history(files: Files) -> History:
    text = _newest_text(files, "metrics.csv")
    if text and (history := read_metrics_csv(text)):
        return history
    scalars: dict[str, list[tuple[int, float]]] = {}
    for path in reversed(_newest_paths(files, is_events)):  # what a later file says of a step wins
        digest = files.digest(path) or {}
        for tag, points in digest.get("scalars", {}).items():
            scalars.setdefault(tag, []).extend((step, value) for step, value in points)

    return read_scalars(scalars)


def _read_results(files: Files, home: str, history: History, step: int | None) -> tuple[dict[str, float], Point | None]:
    """Return the metrics of the model in *home*: of its own result file, else of its last evaluation."""
    for name in _RESULT_FILES:
        values = _Reader(files, home).json(name)
        found = {key: float(v) for key, v in values.items() if is_evaluation(key) and isinstance(v, (int, float))}
        if found:
            return found, None
    point = latest_evaluation(history, step)

    return (point.evaluation, point) if point else ({}, None)


def _choose_metric(wanted: Iterable[str], history: History) -> str:
    """Return the name of the metric to compare units by, as the history has it: the first of *wanted* that is there."""
    names = {name for point in history for name in point.evaluation}
    for metric in filter(None, wanted):
        for name in (metric, f"eval_{metric}", f"eval/{metric}", f"val_{metric}"):
            if name in names:
                return name

    return min(names, default="")


def _said_metric(arguments: Mapping[str, Any]) -> str:
    said = arguments.get("metric_for_best_model")
    return said if isinstance(said, str) else ""


def _best_metric(state: Mapping[str, Any], history: History) -> str:
    """Return the metric that had the best value, as the state gives it, at the best step."""
    best, step = state.get("best_metric"), state.get("best_global_step")
    found = [name for point in history if point.step == step for name, value in point.evaluation.items() if value == best]
    return found[0] if len(found) == 1 else ""


# --- units


def _read_units(files: Files, units: Sequence[Unit], metric: str, history: History) -> tuple[UnitRow, ...]:
    """Return a row for each unit, the newest first."""
    points = {point.step: point.values for point in history}
    sizes = dict.fromkeys((unit.name for unit in units), 0)
    for path, size in files.sizes.items():
        for end in (at for at, character in enumerate(path) if character == "/"):
            if path[:end] in sizes:
                sizes[path[:end]] += size
    steps = {unit: _step_of(unit.name, files) for unit in units}

    return tuple(
        UnitRow(unit, steps[unit], points.get(steps[unit] or 0, {}).get(metric), sizes[unit.name])
        for unit in reversed(units)
    )


def _step_of(directory: str, files: Files) -> int | None:
    """Return the step of a unit: what its state says, else the number in its name."""
    if not directory:
        return None
    found = _STEP.fullmatch(directory.rpartition("/")[2])
    if found:
        return int(found[1])
    if f"{directory}/trainer_state.json" in files.sources:
        step = _Reader(files, directory).json("trainer_state.json").get("global_step")
        return step if isinstance(step, int) else None

    return None


# --- files that stand anywhere


def _newest_text(files: Files, name: str) -> str | None:
    paths = _newest_paths(files, lambda path: path.rpartition("/")[2] == name)
    return files.text(paths[0]) if paths else None


def _newest_paths(files: Files, is_wanted: Any) -> list[str]:  # noqa: ANN401 - a predicate
    """Return the paths that are wanted, the last run first: versions and times stand in their names."""
    return sorted((path for path in files.sources if is_wanted(path)), key=_natural, reverse=True)


def _natural(path: str) -> list[tuple[int, str]]:
    return [(int(part), "") if part.isdecimal() else (-1, part) for part in re.split(r"(\d+)", path)]
