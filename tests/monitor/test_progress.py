"""How far a long command is, for a person on a terminal and for one who reads a file."""

import io
from pathlib import Path

import pytest
from support.running import endpoint, write_config, write_safetensors
from support.terminal import Terminal

from hubsync.localhub import LocalHub
from hubsync.monitor.progress import Amount, Progress, describe_amount, draw_amount

HALF = Amount("acme/x", files=12, all_files=40, bytes=1_200_000_000, all_bytes=2_400_000_000)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        """Return the time that the test set."""
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_an_amount_is_said_with_its_rate_and_the_time_left() -> None:
    """Bytes, rate, time left and files, in this order; what is not known is left out."""
    said = describe_amount(HALF, 85e6), describe_amount(Amount("x", files=1), None), describe_amount(Amount("x"), 1.0)

    assert ("1.2 of 2.4 GB, 85.0 MB/s, 14s left, 12 of 40 files", "1 file", "1 B/s") == said


@pytest.mark.parametrize("width", [20, 40, 79, 120])
def test_a_row_is_never_wider_than_the_terminal(width: int) -> None:
    """Whatever the width, it is one row: a wrapped one would leave its rest behind."""
    assert width >= len(draw_amount(HALF, 85e6, width=width, name_chars=30))


def test_a_row_has_a_bar() -> None:
    """It stands still while the words change: what matters least of them goes first. Some terminals know no Unicode."""
    rows = [draw_amount(HALF, rate, width=79, name_chars=20) for rate in (None, 85e6)]
    plain = draw_amount(HALF, 85e6, width=50, ascii_only=True)

    assert [
        "acme/x                █████░░░░░  50%  1.2 of 2.4 GB, 12 of 40 files",
        "acme/x                █████░░░░░  50%  1.2 of 2.4 GB, 85.0 MB/s, 14s left",
    ] == rows
    assert "acme/x  #####-----  50%  1.2 of 2.4 GB, 85.0 MB/s" == plain


def test_a_name_from_a_path_cannot_steer_the_terminal() -> None:
    """Control characters in a name are shown as what they are."""
    assert "\x1b" not in draw_amount(Amount("\x1b[2J"), None, width=80)


def test_elsewhere_a_line_is_printed_now_and_then(clock: Clock) -> None:
    """In a file there is a line after ten seconds, then after twice as long each time, with the rate of the last while."""
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress._over.set()  # the test says when it is shown
        for second in range(0, 101, 5):
            clock.now = second
            progress.update("acme/x", bytes=second * 1_000_000, all_bytes=200_000_000)
            progress.show()

    assert [
        "acme/x: 10.0 of 200.0 MB, 1.0 MB/s, 3m10s left",
        "acme/x: 30.0 of 200.0 MB, 1.0 MB/s, 2m50s left",
        "acme/x: 70.0 of 200.0 MB, 1.0 MB/s, 2m10s left",
    ] == stream.getvalue().splitlines()


def test_a_stall_can_be_seen(clock: Clock) -> None:
    """The rate is that of the last while, so that nothing is promised of what stands still."""
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress._over.set()
        for second in range(0, 101, 5):
            clock.now = second
            progress.update("acme/x", bytes=min(second, 20) * 1_000_000, all_bytes=200_000_000)
            progress.show()

    assert "acme/x: 20.0 of 200.0 MB" == stream.getvalue().splitlines()[-1]


def test_files_and_bytes_can_be_counted_up(clock: Clock) -> None:
    """``add`` counts, ``drop`` ends a row."""
    stream = io.StringIO()
    with Progress(stream, clock=clock) as progress:
        progress._over.set()
        progress.add("acme/x", files=1, bytes=2_000)
        progress.add("acme/x", files=1, bytes=3_000)
        progress.update("acme/y", doing="asking")
        progress.drop("acme/y")
        clock.now = 10
        progress.show()

    assert "acme/x: 5.0 kB, 2 files\n" == stream.getvalue()


def test_a_reader_who_is_gone_ends_no_work() -> None:
    """A closed stream ends the showing, and raises nothing."""
    stream = io.StringIO()
    with Progress(stream) as progress:
        stream.close()
        progress._write("x")

    assert progress._over.is_set()


def test_once_shows_on_a_terminal_what_goes_up(tmp_path: Path) -> None:
    """Each mirror has a row with its bar while it uploads, no row is left behind, and log lines are whole."""
    source = tmp_path / "run"
    source.mkdir()
    write_safetensors(source / "model.safetensors", 3_000_000)
    with LocalHub(tmp_path / "hub") as hub:
        limited = f'{endpoint(hub)}\nupload_rate = "1MB/s"'
        config = write_config(tmp_path / "hubsync.toml", source, {limited: "acme/x"})
        config.write_text(config.read_text().replace('format = "json"', 'format = "auto"'))
        with Terminal(["once", "-c", str(config)]) as terminal:
            code, text = terminal.wait()

    rows = [row for row in text.split("\n") if "run → m0:acme/x" in row]
    after = text[text.rindex("run → m0:acme/x") :]
    assert 0 == code
    assert any("█" in row and "of 3.0 MB" in row for row in rows)
    assert "\x1b[J" in after
    assert "run: everything is published" in after
