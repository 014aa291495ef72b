"""What the watch of a source says, and how often."""

from structlog.testing import capture_logs
from support.rig import Rig

from hubsync.watcher import _CALM_S, Watcher


def test_lost_events_in_a_row_do_not_fill_the_log(rig: Rig) -> None:
    """A long burst is said at each doubling; after each loss there is an inventory; after a calm the next is news."""
    watcher = Watcher(rig.work, lambda: None)
    with capture_logs() as said:
        for _ in range(20):
            watcher._note_trouble("overflowed", {})
        watcher._overflowed -= _CALM_S + 1
        watcher._note_trouble("overflowed", {})

    assert ["watch.overflowed"] * 6 == [entry["event"] for entry in said]
    assert 21 == watcher._events.qsize()
