"""Commits what is settled before hubsync ends: the newest unit first, since there may be no time for all."""

from collections.abc import Callable

from hubsync.pipeline.pipeline import Pipeline


def commit_last(pipeline: Pipeline, on_commit: Callable[[], None]) -> None:
    """Commit all that is settled in *pipeline*; *on_commit* is called as soon as there is something to publish."""
    pipeline.newest_first = True
    while True:
        settled = pipeline.settle()
        if settled.units and pipeline.commit(units_only=True):
            on_commit()
        elif not pipeline.has_early():
            break
    if pipeline.commit():
        on_commit()
