"""A restore says how far it is: files, bytes, rate and time left, and what each mirror gives."""

import io

from hubsync.monitor.progress import describe_amount
from hubsync.restore.progress import Meter, Teller


def a_meter() -> Meter:
    """Return one that has half of four pieces, of which one was here before."""
    meter = Meter()
    meter.expect(4_000_000, 4)
    meter.note_present("a", 1_000_000)
    meter.add(700_000, "hub")
    meter.add(300_000, "onprem")
    for _ in range(2):
        meter.add_piece()

    return meter


def test_what_was_here_is_done_but_is_no_speed() -> None:
    """A restore that goes on after an interruption begins where it was, and its rate is that of the network."""
    whole, *mirrors = a_meter().amounts()

    assert "2.0 of 4.0 MB, 500.0 kB/s, 4s left, 2 of 4 files" == describe_amount(whole, 500_000.0)
    assert 1_000_000 == whole.moved
    assert [("from hub", 700_000), ("from onprem", 300_000)] == [(one.name, one.bytes) for one in mirrors]


def test_bytes_that_were_wrong_are_taken_back() -> None:
    """They came over the network and count for the rate, but not as done."""
    meter = a_meter()
    meter.add(-300_000)
    (whole, *_) = meter.amounts()

    assert (1_700_000, 1_000_000) == (whole.bytes, whole.moved)


def test_what_went_wrong_is_said_once_and_whole() -> None:
    """Also when nobody wants to see how far it is; a name cannot paint the terminal."""
    stream, meter = io.StringIO(), a_meter()
    with Teller(meter, quiet=True, stream=stream):
        for _ in range(3):
            meter.note("hub: connection reset\x1b[2J")

    assert "hub: connection reset\\x1b[2J\n" == stream.getvalue()
