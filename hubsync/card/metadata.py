"""Puts facts and the operator's words into the Hub's metadata. The one module of the card that knows huggingface_hub."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from hubsync.card.facts import Facts
from hubsync.card.history import metric_of
from hubsync.card.rules import is_repo_id, legal_languages, legal_license, legal_repo_ids, legal_tags, slugify
from hubsync.config.model import Card

if TYPE_CHECKING:
    from huggingface_hub import EvalResult

Metadata = dict[str, Any]


def model_metadata(facts: Facts, said: Card, repo_id: str) -> Metadata:
    """Return the metadata of a model card."""
    from huggingface_hub import ModelCardData  # noqa: PLC0415 - 300 ms, and many have no card

    datasets = legal_repo_ids(said.datasets)
    base_models = legal_repo_ids(said.base_model or facts.base_models)
    pipeline_tag = pipeline_tag_of(facts, said)
    results = _eval_results(facts, pipeline_tag, datasets)
    name = said.model_name or repo_id.rpartition("/")[2]
    license_: dict[str, Any] = _license(said)
    data: Any = ModelCardData(
        language=legal_languages(said.language) or None,
        library_name=library_of(facts, said) or None,
        tags=legal_tags([*said.tags, *_own_tags(facts)]) or None,
        base_model=_one_or_many(base_models),
        datasets=datasets or None,
        metrics=list(said.metrics) or sorted({metric_of(key) for key in facts.results} - {"loss"}) or None,
        pipeline_tag=pipeline_tag or None,
        eval_results=results or None,
        model_name=name if results or said.model_name else None,
        **license_,
    )

    return _without_none(data.to_dict())


def dataset_metadata(said: Card) -> Metadata:
    """Return the metadata of a dataset card; the Hub finds files, formats and splits by itself."""
    from huggingface_hub import DatasetCardData  # noqa: PLC0415 - as above

    license_: dict[str, Any] = _license(said)
    data: Any = DatasetCardData(
        language=legal_languages(said.language) or None,
        tags=legal_tags(said.tags) or None,
        pretty_name=said.model_name,
        task_categories=[slugify(said.pipeline_tag)] if said.pipeline_tag else None,
        **license_,
    )

    return _without_none(data.to_dict())


def told_keys(said: Card) -> frozenset[str]:
    """Return the keys that the operator set; these are written over what a card says."""
    keys = {name for name in ("language", "tags", "datasets", "base_model", "metrics") if getattr(said, name)}
    keys |= {name for name in ("pipeline_tag", "library_name", "license") if getattr(said, name)}
    return frozenset(keys | ({"license_name"} if said.license else set()))


def encode_metadata(metadata: Mapping[str, Any]) -> str:
    """Return *metadata* as YAML, as huggingface_hub writes it, without the last line's end."""
    from huggingface_hub import CardData  # noqa: PLC0415 - as above

    data: Any = CardData(**metadata)
    text: str = data.to_yaml() if metadata else ""

    return text.rstrip("\n")


def pipeline_tag_of(facts: Facts, said: Card) -> str:
    """Return the task: what the operator says, else what the architecture is for."""
    if said.pipeline_tag:
        return slugify(said.pipeline_tag)
    if facts.library == "sentence-transformers":
        return "sentence-similarity"

    return facts.task.pipeline_tag if facts.task else ""


def library_of(facts: Facts, said: Card) -> str:
    """Return the library that loads the model."""
    return slugify(said.library_name) if said.library_name else facts.library


def _eval_results(facts: Facts, pipeline_tag: str, datasets: list[str]) -> "list[EvalResult]":
    """Return the results that can be said to be of a task and a dataset; the Hub wants both."""
    from huggingface_hub import EvalResult  # noqa: PLC0415 - as above

    if not pipeline_tag or len(datasets) != 1 or not is_repo_id(datasets[0]):
        return []
    return [
        EvalResult(
            task_type=pipeline_tag,
            dataset_type=datasets[0],
            dataset_name=datasets[0],
            metric_type=slugify(metric_of(name)).replace("-", "_"),
            metric_name=metric_of(name),
            metric_value=value,
        )
        for name, value in facts.results.items()
    ]


def _own_tags(facts: Facts) -> Iterable[str]:
    if facts.is_trainer:
        yield "generated_from_trainer"
    method = facts.adapter.get("Method")
    if method:
        yield method.lower()


def _license(said: Card) -> dict[str, str]:
    return legal_license(said.license) if said.license else {}


def _one_or_many(names: list[str]) -> str | list[str] | None:
    return names[0] if len(names) == 1 else names or None


def _without_none(values: Mapping[str, Any]) -> Metadata:
    return {key: value for key, value in values.items() if value is not None}
