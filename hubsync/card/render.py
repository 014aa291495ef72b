"""Writes the text of a model card from facts and the operator's words. A section with nothing to say is left out. Pure."""

import string
from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from hubsync.card.facts import Facts, UnitRow
from hubsync.card.files import thin_out
from hubsync.card.history import Point, is_evaluation, is_learning_rate, is_train_loss, metric_of
from hubsync.card.metadata import library_of, pipeline_tag_of
from hubsync.card.rules import is_repo_id, legal_repo_ids
from hubsync.card.tables import code, escape, fact_table, format_metric, format_parameters, format_size, table
from hubsync.card.usage import Place, quote, write_examples
from hubsync.config.model import Card

_ROWS_MOST = 20
_UNITS_MOST = 50
_HEADINGS = (
    "Model description",
    "Intended uses & limitations",
    "How to use",
    "Training data",
    "Training procedure",
    "Variables and metrics",
    "Evaluation results",
    "Published checkpoints",
)
_ALIASES = {
    "intended use": "Intended uses & limitations",
    "intended uses": "Intended uses & limitations",
    "limitations": "Intended uses & limitations",
    "usage": "How to use",
    "description": "Model description",
    "training": "Training procedure",
    "evaluation": "Evaluation results",
}
_PICTURE = """<picture>
  <source media="(prefers-color-scheme: dark)" srcset="{dark}">
  <img alt="{alt}" src="{light}">
</picture>"""


class Pictures(Struct, frozen=True):
    """Where the curves stand, drawn for light and for dark pages; empty if they are not drawn."""

    light: str = ""
    dark: str = ""


def render_model_card(facts: Facts, said: Card, place: Place, pictures: Pictures, template: str | None = None) -> str:
    """Return the text of the card, without metadata."""
    title = said.model_name or place.repo_id.rpartition("/")[2]
    sections = {
        "Model description": _description(facts, said, place),
        "How to use": _usage(facts, said, place),
        "Training data": _training_data(said, place),
        "Training procedure": _training(facts, pictures),
        "Variables and metrics": _variables(facts),
        "Evaluation results": _evaluation(facts),
        "Published checkpoints": _units(facts, place),
    }

    return join_sections(title, sections, said.sections, _HEADINGS, template)


def join_sections(
    title: str, sections: Mapping[str, str], said: Mapping[str, str], order: Sequence[str], template: str | None
) -> str:
    """Put the operator's words before what was found out, under the same headings; headings of their own come last."""
    texts = dict.fromkeys(order, "") | {heading: text for heading, text in sections.items() if text}
    known = {heading.casefold(): heading for heading in order} | {k: v for k, v in _ALIASES.items() if v in order}
    for heading, words in said.items():
        at = known.get(heading.strip().casefold(), heading.strip())
        texts[at] = join_paragraphs(words.strip(), texts.get(at, ""))
    if template is not None:
        fields = {_field(heading): text for heading, text in texts.items()}
        return string.Template(template).safe_substitute(fields, title=title)

    return join_paragraphs(f"# {escape(title)}", *(f"## {heading}\n\n{text}" for heading, text in texts.items() if text))


def join_paragraphs(*parts: str) -> str:
    """Return *parts* with an empty line between them; empty ones are left out."""
    return "\n\n".join(part for part in parts if part)


def _field(heading: str) -> str:
    return "".join(character if character.isalnum() else "_" for character in heading.lower().replace("& ", ""))


# --- what it is


def _description(facts: Facts, said: Card, place: Place) -> str:
    bases = legal_repo_ids(said.base_model or facts.base_models)
    linked = ", ".join(f"[{escape(base)}]({place.endpoint}/{base})" for base in bases)
    made = "An adapter for" if facts.is_adapter else "A fine-tuned version of"
    sentence = f"{made} {linked}." if linked else ""
    rows: dict[str, str] = {}
    if facts.architecture and not facts.is_adapter:
        rows["Architecture"] = facts.architecture
    if library := library_of(facts, said):
        rows["Library"] = library
    if tag := pipeline_tag_of(facts, said):
        rows["Task"] = tag
    if facts.weights:
        rows["Parameters"] = _say_parameters(facts)
        rows["Size of the weights"] = format_size(facts.weights.bytes)
    rows |= facts.model | {f"Adapter: {label.lower()}": value for label, value in facts.adapter.items()}

    return join_paragraphs(sentence, fact_table(rows) if rows else "")


def _say_parameters(facts: Facts) -> str:
    weights = facts.weights
    if weights is None:
        return ""
    types = ", ".join(
        dtype if len(weights.dtypes) == 1 else f"{format_parameters(count)} {dtype}"
        for dtype, count in weights.dtypes.items()
    )
    exact = f"{weights.parameters:,}"
    short = format_parameters(weights.parameters)

    return f"{short} ({exact}), {types}" if short != exact else f"{exact}, {types}"


# --- how to use it


def _usage(facts: Facts, said: Card, place: Place) -> str:
    tag = pipeline_tag_of(facts, said)
    bases = said.base_model or facts.base_models
    examples = write_examples(facts, _at_home(facts, place), bases, tag)
    if not examples:
        return ""
    elsewhere = "" if place.endpoint == "https://huggingface.co" else _say_endpoint(place)
    generation = ""
    if facts.generation:
        generation = join_paragraphs("Text is generated with these settings by default:", fact_table(facts.generation))

    return join_paragraphs(elsewhere, *(f"```python\n{example}\n```" for example in examples), generation)


def _say_endpoint(place: Place) -> str:
    return f"This repository is on another Hub: set `HF_ENDPOINT={place.endpoint}` before Python starts."


def _at_home(facts: Facts, place: Place) -> Place:
    """Return the place of the model that the card describes: a unit may have a revision or a directory of its own."""
    row = next((row for row in facts.units if row.unit.name == facts.home), None)
    if row is not None:
        return replace(place, subfolder=row.unit.subfolder, revision=place.revision or row.unit.revision)

    return replace(place, subfolder=f"{place.prefix}{facts.home}".rstrip("/"))


# --- how it was made


def _training_data(said: Card, place: Place) -> str:
    datasets = legal_repo_ids(said.datasets)
    return "\n".join(f"- [{escape(name)}]({place.endpoint}/datasets/{name})" for name in datasets if is_repo_id(name))


def _training(facts: Facts, pictures: Pictures) -> str:
    parts = (
        ("Preprocessing", fact_table(facts.preprocessing) if facts.preprocessing else ""),
        ("Hyperparameters", fact_table(facts.hyperparameters) if facts.hyperparameters else ""),
        ("Hardware", fact_table(facts.hardware) if facts.hardware else ""),
        ("Training results", _results(facts, pictures)),
        ("Versions", fact_table(facts.versions) if facts.versions else ""),
    )
    return join_paragraphs(*(f"### {heading}\n\n{text}" for heading, text in parts if text))


def _results(facts: Facts, pictures: Pictures) -> str:
    if not facts.history:
        return ""
    if not pictures.light:
        return _history_table(facts.history)
    alt = "Training loss, evaluation metrics and learning rate over steps"
    picture = _PICTURE.format(dark=pictures.dark, light=pictures.light, alt=alt)
    is_evaluated = any(point.evaluation for point in facts.history)

    return join_paragraphs(picture, _history_table(facts.history) if is_evaluated else "")


def _history_table(history: Sequence[Point]) -> str:
    """Return the history as rows: one for each evaluation, or, without any, for some of the steps."""
    evaluated = [point for point in history if point.evaluation] or list(history)
    losses = _carry_losses(history)
    chosen = thin_out(evaluated, _ROWS_MOST)
    names = [
        name for name in dict.fromkeys(n for p in chosen for n in p.values) if is_evaluation(name) or is_learning_rate(name)
    ]
    has_epochs = any(point.epoch is not None for point in chosen)
    has_losses = any(point.step in losses for point in chosen)
    heads = ["Step", *(["Epoch"] if has_epochs else []), *(["Training loss"] if has_losses else []), *map(_heading, names)]
    rows = [
        [
            str(point.step),
            *([_say_epoch(point.epoch)] if has_epochs else []),
            *([format_metric(losses.get(point.step))] if has_losses else []),
            *(format_metric(point.values.get(name)) for name in names),
        ]
        for point in chosen
    ]

    return table(heads, rows, numbers_from=0)


def _heading(name: str) -> str:
    return "Learning rate" if is_learning_rate(name) else escape(name)


def _carry_losses(history: Iterable[Point]) -> dict[int, float]:
    """Return at each step the training loss that was logged last: evaluations are logged by themselves."""
    losses: dict[int, float] = {}
    last = None
    for point in history:
        last = next((value for name, value in point.values.items() if is_train_loss(name)), last)
        if last is not None:
            losses[point.step] = last

    return losses


def _say_epoch(epoch: float | None) -> str:
    return "" if epoch is None else f"{epoch:.4g}"


# --- what comes out


def _variables(facts: Facts) -> str:
    labels = ""
    if facts.labels:
        rows = ((str(number), escape(label)) for number, label in enumerate(facts.labels[:_UNITS_MOST]))
        labels = join_paragraphs("The model tells these classes apart:", table(("Number", "Label"), rows, numbers_from=0))
        if len(facts.labels) > _UNITS_MOST:
            labels += f"\n\n… and {len(facts.labels) - _UNITS_MOST} more, all in `config.json`."
    measured = ""
    names = list(dict.fromkeys(name for point in facts.history for name in point.evaluation)) or list(facts.results)
    if names:
        compared = f" Checkpoints are compared by {code(facts.metric)}." if facts.metric else ""
        measured = f"Measured on evaluation data: {', '.join(map(code, names))}.{compared}"

    return join_paragraphs(labels, measured)


def _evaluation(facts: Facts) -> str:
    if not facts.results:
        return ""
    rows = ((escape(metric_of(name)), format_metric(value)) for name, value in facts.results.items())
    when = ""
    if facts.results_at is not None:
        epoch = f" (epoch {_say_epoch(facts.results_at.epoch)})" if facts.results_at.epoch is not None else ""
        when = f"Evaluated at step {facts.results_at.step}{epoch}."
    best = ""
    if facts.best is not None:
        at = f", at {code(facts.best_unit)}" if facts.best_unit else ""
        best = f"The best evaluation by the trainer's own measure: {format_metric(facts.best)}{at}."

    return join_paragraphs(when, table(("Metric", "Value"), rows), best)


def _units(facts: Facts, place: Place) -> str:
    if not facts.units:
        return ""
    shown = facts.units[:_UNITS_MOST]
    metric = facts.metric if any(row.metric is not None for row in shown) else ""
    has_revisions = any(row.unit.revision for row in shown)
    where = "Revision" if has_revisions else "Directory"
    rows = [_unit_row(row, metric=bool(metric), has_revision=has_revisions) for row in shown]
    heads = ["Step", *([escape(metric)] if metric else []), "Size", where]
    how = _say_revision(facts.units, place) if has_revisions else ""
    more = f"… and {len(facts.units) - _UNITS_MOST} older ones." if len(facts.units) > _UNITS_MOST else ""

    return join_paragraphs(how, table(heads, rows, numbers_from=0), more)


def _unit_row(row: UnitRow, *, metric: bool, has_revision: bool) -> list[str]:
    step = "" if row.step is None else str(row.step)
    where = row.unit.revision if has_revision else row.unit.subfolder or row.unit.name
    return [step, *([format_metric(row.metric)] if metric else []), format_size(row.bytes), code(where)]


def _say_revision(units: Sequence[UnitRow], place: Place) -> str:
    newest = next(row.unit.revision for row in units if row.unit.revision)
    call = f"from_pretrained({quote(place.repo_id)}, revision={quote(newest)})"
    return f"Each checkpoint is a revision of its own: `{call}`."
