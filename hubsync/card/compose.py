"""Makes a whole card from facts, the operator's words and the card that stands there. Pure; knows no disk and no mirror."""

from collections.abc import Mapping, Sequence

from msgspec import Struct, field

from hubsync.card import CARD
from hubsync.card.curves import DARK, LIGHT, draw_curves
from hubsync.card.dataset import read_rows, render_dataset_card
from hubsync.card.facts import Unit, read_facts
from hubsync.card.files import Files
from hubsync.card.merge import Draft, merge_card
from hubsync.card.metadata import dataset_metadata, model_metadata, told_keys
from hubsync.card.render import Pictures, render_model_card
from hubsync.card.stock import is_stock
from hubsync.card.usage import Place
from hubsync.config.model import Card

_LIGHT, _DARK = ".hubsync/curves.svg", ".hubsync/curves-dark.svg"


class Subject(Struct, frozen=True):
    """What a card is about.

    Attributes:
        units: those that are published, the oldest first.
        home: the directory of the source that holds the model; ``None``: it is looked for.
        metric: what units are compared by, if the operator has said so.
    """

    files: Files
    place: Place
    units: Sequence[Unit] = ()
    home: str | None = None
    metric: str = ""


class Composed(Struct, frozen=True):
    """The files to write (path → text); none, and the reason, if the card that stands there is to be left alone."""

    files: Mapping[str, str] = field(default_factory=dict)
    reason: str = ""


def compose_card(subject: Subject, said: Card, theirs: str | None, template: str | None = None) -> Composed:
    """Return the card of *subject*, put into *theirs*, and the pictures in it."""
    draft, pictures = _draft(subject, said, template)
    if theirs is None and not draft.metadata and "\n" not in draft.text:
        return Composed()  # nothing is known but a name
    merged = merge_card(None if theirs is None or is_stock(theirs) else theirs, draft)
    if merged.card is None:
        return Composed(reason=merged.reason)

    return Composed({CARD: merged.card, **pictures})


def _draft(subject: Subject, said: Card, template: str | None) -> tuple[Draft, dict[str, str]]:
    place = subject.place
    if place.repo_type == "dataset":
        text = render_dataset_card(read_rows(subject.files.sizes), said, place, template)
        return Draft(dataset_metadata(said), text, told_keys(said)), {}
    facts = read_facts(subject.files, subject.units, subject.metric, subject.home)
    drawn = {_LIGHT: draw_curves(facts.history, LIGHT), _DARK: draw_curves(facts.history, DARK)}
    files = {path: picture for path, picture in drawn.items() if picture}
    at = f"{place.endpoint}/{place.repo_id}/resolve/{place.branch}/{place.prefix}"
    pictures = Pictures(at + _LIGHT, at + _DARK) if files else Pictures()
    text = render_model_card(facts, said, place, pictures, template)

    return Draft(model_metadata(facts, said, place.repo_id), text, told_keys(said)), files
