"""What can be said of a config at a glance, without checking it: where its state and log lie, and whether it was edited.

A full check takes longer to import than ``status`` takes to answer.
"""

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct

from hubsync.config.documents import Document, find_config, find_included, mark_of, read_document


class Glance(Struct, frozen=True):
    """A config's state directory, its log file, and the mark that ``Config.mark`` is if it was loaded as it stands now."""

    state_dir: Path
    mark: str
    log_file: Path | None = None


def glance_at(path: Path | None, environment: Mapping[str, str]) -> Glance | None:
    """Return what the config says whatever else is wrong in it; ``None`` if that cannot be known.

    Raises:
        ConfigError: there is no config.
    """
    main = read_document(find_config(path, environment), environment.get("HOME"))
    if not isinstance(main, Document):
        return None
    state_dir = main.table("service").get("state_dir", default_state_dir(environment))
    log_file = main.table("log").get("file")
    if not isinstance(state_dir, str) or not isinstance(log_file, (str, type(None))):
        return None
    try:
        located = None if log_file is None else main.context.locate(log_file)
        return Glance(main.context.locate(state_dir), _mark_all(main), located)
    except ValueError:
        return None


def default_state_dir(environment: Mapping[str, str]) -> str:
    """Return where state is kept unless the config says it; systemd may name several directories."""
    from_systemd = environment.get("STATE_DIRECTORY", "").partition(":")[0]
    if from_systemd:
        return from_systemd

    xdg = environment.get("XDG_STATE_HOME", "")
    return f"{xdg}/hubsync" if xdg.startswith("/") else "~/.local/state/hubsync"


def _mark_all(main: Document) -> str:
    """Return the marks of *main* and what it includes; one that cannot be read makes it the mark of nothing."""
    included = [found for found in find_included(main) if isinstance(found, Path)]
    try:
        return " ".join([main.mark, *(mark_of(path.stat()) for path in included)])
    except OSError:
        return ""
