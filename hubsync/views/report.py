"""Makes the report of a log: reads it, tells its story, writes the page."""

from pathlib import Path

from hubsync.errors import StateError
from hubsync.views.log import Place
from hubsync.views.page import draw_page
from hubsync.views.query import Query
from hubsync.views.story import Story, tell


def read_story(place: Place, query: Query) -> Story:
    """Return what the log tells of what *query* wants. Raises LogUnreadableError."""
    return tell(entry for entry in place.read(query.since) if query.matches(entry))


def write_page(path: Path, story: Story) -> None:
    """Write *story* as a page to *path*. Raises StateError."""
    try:
        path.write_text(draw_page(story), encoding="utf-8")
    except OSError as exc:
        raise StateError(f"cannot write {path}: {exc.strerror}", hint="name another file") from exc
