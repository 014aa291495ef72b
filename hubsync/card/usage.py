"""Writes the example code of a card: what loads this model from this repository, or nothing. Pure."""

from collections.abc import Iterable

from msgspec import Struct

from hubsync.card.facts import Facts
from hubsync.card.rules import legal_repo_ids
from hubsync.card.tasks import EXAMPLE_INPUTS, TEXT_TASKS

_SHOWN_FILES = 3
_PROMPT_TOKENS = 24  # what the longest prompt of an example may take


class Place(Struct, frozen=True):
    """Where a mirror shows the model.

    Attributes:
        revision: the branch, unless it is the one that is taken by default.
        subfolder: the directory in the repository.
        prefix: where the mirror puts all that is published, with a slash at its end; empty for the top.
    """

    repo_id: str
    endpoint: str
    repo_type: str = "model"
    branch: str = "main"
    revision: str = ""
    subfolder: str = ""
    prefix: str = ""

    def arguments(self) -> str:
        """Return what is passed to ``from_pretrained``."""
        named = {"revision": self.revision, "subfolder": self.subfolder}
        return ", ".join([quote(self.repo_id), *(f"{key}={quote(value)}" for key, value in named.items() if value)])


def write_examples(facts: Facts, place: Place, base_models: Iterable[str], pipeline_tag: str) -> list[str]:
    """Return the examples, each a piece of Python."""
    if facts.library == "transformers" and facts.task is not None:
        return _transformers(facts, place, pipeline_tag)
    if facts.library == "peft":
        return _adapter(facts, place, legal_repo_ids(base_models))
    if facts.library == "diffusers" and not place.subfolder:
        loaded = f"pipe = DiffusionPipeline.from_pretrained({place.arguments()})"
        return [_join("from diffusers import DiffusionPipeline", "", loaded, 'image = pipe("A red bicycle").images[0]')]
    if facts.library == "sentence-transformers" and not place.subfolder:
        loaded = f"model = SentenceTransformer({place.arguments()})"
        encoded = 'embeddings = model.encode(["A sentence.", "Another one."])'
        return [
            _join("from sentence_transformers import SentenceTransformer", "", loaded, encoded, "print(embeddings.shape)")
        ]

    return _files(facts, place)


def quote(text: str) -> str:
    """Return *text* as Python writes it, in double quotes."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _join(*lines: str) -> str:
    return "\n".join(lines)


# --- transformers


def _transformers(facts: Facts, place: Place, pipeline_tag: str) -> list[str]:
    example = _model_example(facts, place)
    if not facts.processor or (pipeline_tag not in EXAMPLE_INPUTS and pipeline_tag != "fill-mask"):
        return [example]

    return [_pipeline_example(facts, place, pipeline_tag), example]


def _pipeline_example(facts: Facts, place: Place, pipeline_tag: str) -> str:
    called = _pipeline_call(facts, pipeline_tag)
    if not place.subfolder:
        revision = f", revision={quote(place.revision)}" if place.revision else ""
        made = f"pipe = pipeline({quote(pipeline_tag)}, model={quote(place.repo_id)}{revision})"
        return _join("from transformers import pipeline", "", made, *called)
    # A pipeline takes no subfolder, but it takes what was loaded from one.
    auto_class = facts.task.auto_class if facts.task else "AutoModel"
    name = _processor_name(facts)
    role = {"tokenizer": "tokenizer", "processor": "processor"}.get(name, name)

    return _join(
        f"from transformers import {', '.join(sorted((auto_class, facts.processor)))}, pipeline",
        "",
        f"{name} = {facts.processor}.from_pretrained({place.arguments()})",
        f"model = {auto_class}.from_pretrained({place.arguments()})",
        f"pipe = pipeline({quote(pipeline_tag)}, model=model, {role}={name})",
        *called,
    )


def _pipeline_call(facts: Facts, pipeline_tag: str) -> list[str]:
    if pipeline_tag == "fill-mask":
        return ['print(pipe(f"Paris is the {pipe.tokenizer.mask_token} of France."))']
    if pipeline_tag == "text-generation" and "Chat template" in facts.preprocessing:
        asked = 'messages = [{"role": "user", "content": "Who are you?"}]'
        return [asked, f"print(pipe(messages, max_new_tokens={_new_tokens(facts, 64)}))"]
    inputs = EXAMPLE_INPUTS[pipeline_tag].replace("{tokens}", str(_new_tokens(facts, 32)))

    return [f"print(pipe({inputs}))"]


def _new_tokens(facts: Facts, most: int) -> int:
    """Return how many tokens an example asks for: no more than a model of a short context has room for."""
    context = facts.model.get("Context length", "")
    return max(1, min(most, int(context) - _PROMPT_TOKENS)) if context.isdecimal() else most


def _model_example(facts: Facts, place: Place) -> str:
    auto_class = facts.task.auto_class if facts.task else "AutoModel"
    loaded = f"model = {auto_class}.from_pretrained({place.arguments()})"
    if not facts.processor:
        return _join(f"from transformers import {auto_class}", "", loaded)
    name = _processor_name(facts)
    lines = [
        f"from transformers import {', '.join(sorted((auto_class, facts.processor)))}",
        "",
        f"{name} = {facts.processor}.from_pretrained({place.arguments()})",
        loaded,
    ]
    task = facts.task.pipeline_tag if facts.task else ""
    if facts.processor == "AutoTokenizer":
        lines += _token_lines(facts, task, auto_class)

    return _join(*lines)


def _token_lines(facts: Facts, task: str, auto_class: str) -> list[str]:
    if task == "text-generation" or auto_class == "AutoModelForSeq2SeqLM":
        return [
            "",
            'inputs = tokenizer("Once upon a time", return_tensors="pt")',
            f"outputs = model.generate(**inputs, max_new_tokens={_new_tokens(facts, 32)})",
            "print(tokenizer.decode(outputs[0], skip_special_tokens=True))",
        ]
    if task in TEXT_TASKS:
        shown = "last_hidden_state" if task == "feature-extraction" else "logits"
        return ["", 'inputs = tokenizer("A sentence.", return_tensors="pt")', f"print(model(**inputs).{shown}.shape)"]

    return []


def _processor_name(facts: Facts) -> str:
    names = {
        "AutoTokenizer": "tokenizer",
        "AutoImageProcessor": "image_processor",
        "AutoFeatureExtractor": "feature_extractor",
    }
    return names.get(facts.processor, "processor")


# --- adapters


def _adapter(facts: Facts, place: Place, base_models: list[str]) -> list[str]:
    """Return how an adapter is put on its base; without a base that others can load, there is no way to show."""
    if len(base_models) != 1 or facts.task is None:
        return []
    auto_class, base = facts.task.auto_class, quote(base_models[0])
    has_tokenizer = facts.processor == "AutoTokenizer"
    tokenizer_at = place.arguments() if has_tokenizer else base
    lines = [
        "from peft import PeftModel",
        f"from transformers import {', '.join(sorted((auto_class, 'AutoTokenizer')))}",
        "",
        f"tokenizer = AutoTokenizer.from_pretrained({tokenizer_at})",
        f"base = {auto_class}.from_pretrained({base})",
        f"model = PeftModel.from_pretrained(base, {place.arguments()})",
        *_token_lines(facts, facts.task.pipeline_tag, auto_class),
    ]

    return [_join(*lines)]


# --- anything else


def _files(facts: Facts, place: Place) -> list[str]:
    """Return how the files are fetched, and loaded where that needs no code of the model's own."""
    names = facts.weight_files[:_SHOWN_FILES]
    if not names:
        return []
    prefix = f"{place.subfolder}/" if place.subfolder else ""
    revision = f", revision={quote(place.revision)}" if place.revision else ""
    calls = [f"hf_hub_download({quote(place.repo_id)}, {quote(prefix + name)}{revision})" for name in names]
    if len(names) == 1 and names[0].endswith(".safetensors"):
        imports = ["from huggingface_hub import hf_hub_download", "from safetensors.torch import load_file"]
        return [_join(*imports, "", f"state_dict = load_file({calls[0]})")]

    return [_join("from huggingface_hub import hf_hub_download", "", *(f"path = {call}" for call in calls))]
