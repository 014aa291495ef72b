"""Makes the card of a target from its source as it stands, for a person to read; it publishes nothing."""

from hubsync.card import CARD
from hubsync.card.compose import Composed, Subject, compose_card
from hubsync.card.files import SourceFiles
from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import UsageError
from hubsync.mirror.card_writer import place_of, read_template, units_of
from hubsync.mirror.roles import mirror_rules
from hubsync.units import unit_of


def preview_card(config: Config, target: Target, mirror: Mirror) -> Composed:
    """Return the card that *mirror* would get if nobody had written one there.

    Raises:
        HubsyncError: the template cannot be read, or the source.
        UsageError: the mirror is a space, which gets no card.
    """
    if mirror.repo_type == "space":
        raise UsageError(f"{mirror.name} is a space, and spaces get no card from hubsync")
    files = SourceFiles(target, mirror_rules(mirror))
    times: dict[str, int] = {}
    for path, written_at in files.times.items():
        if (unit := unit_of(target, path)) is not None:
            times[unit] = max(times.get(unit, 0), written_at)
    newest_last = sorted(times, key=lambda unit: (times[unit], unit))
    subject = Subject(
        files=files,
        place=place_of(mirror, config.endpoints[mirror.endpoint], mirror.branch),
        units=units_of(target, mirror, newest_last),
        metric=target.best.metric if target.best else "",
    )

    return compose_card(subject, target.card, files.text(CARD), read_template(target))
