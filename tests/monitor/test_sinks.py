import json
import logging
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubsync.monitor.lines import MAX_LINE_BYTES, encode_json
from hubsync.monitor.log import make_formatter
from hubsync.monitor.sinks import JournalSink, PatientHandler, StreamSink

HEAD = {"timestamp": "2026-11-23T12:43:42Z", "level": "info", "event": "file.held", "message": "held x"}


def record(text: str = "x") -> logging.LogRecord:
    return logging.LogRecord("library", logging.WARNING, __file__, 1, text, None, None)


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    reader, writer = os.pipe()
    yield reader, writer
    for descriptor in (reader, writer):
        try:
            os.close(descriptor)
        except OSError:
            continue


def drain(reader: int) -> bytes:
    os.set_blocking(reader, False)
    data = b""
    try:
        while part := os.read(reader, 1 << 16):
            data += part
    except BlockingIOError:
        pass

    return data


def test_lines_arrive_whole(pipe: tuple[int, int]) -> None:
    """A line ends with one newline."""
    reader, writer = pipe
    sink = StreamSink(writer)

    assert sink.deliver("eins", patience_s=0)
    assert sink.deliver("zwei", patience_s=0)
    assert b"eins\nzwei\n" == drain(reader)


def test_a_full_pipe_blocks_nobody(pipe: tuple[int, int]) -> None:
    """Lines are lost, no call hangs; later lines are whole again, also the one that went in part."""
    reader, writer = pipe
    sink = StreamSink(writer)
    lines = [f"{number:04d}" + "x" * 10_000 for number in range(100)]
    sent = [line for line in lines if sink.deliver(line, patience_s=0)]

    assert 3 < len(sent) < 100

    received = drain(reader)
    assert sink.deliver("after", patience_s=0)
    received += drain(reader)
    assert [*sent, "after"] == received.decode().splitlines()


def test_a_reader_that_pauses_costs_its_patience_once(pipe: tuple[int, int]) -> None:
    """After the first lost line nothing waits any more; when lines go again, the loss is counted and said.

    To wait for each would outlast the test's time by far.
    """
    reader, writer = pipe
    sink = StreamSink(writer)
    sink.setFormatter(logging.Formatter("%(message)s"))
    os.set_blocking(writer, False)
    try:
        while os.write(writer, b"x" * 4096):
            pass
    except BlockingIOError:
        os.set_blocking(writer, True)

    for _ in range(500):
        sink.emit(record())

    assert 500 == sink._lost

    drain(reader)
    sink.emit(record("again"))

    assert b"again\n" == drain(reader)
    assert 0 == sink._lost


@pytest.mark.usefixtures("restored_logging")
def test_lost_lines_are_reported(pipe: tuple[int, int]) -> None:
    """The first line that goes again is followed by the number of those that did not."""
    from hubsync.monitor.log import configure_logging  # noqa: PLC0415 - beside its only use

    reader, writer = pipe
    with os.fdopen(writer, "w", closefd=False) as stream:
        configure_logging(log_format="json", stream=stream, environment={})
        sink = logging.getLogger().handlers[0]
        assert isinstance(sink, PatientHandler)
        sink._lost = 7
        sink.emit(record("again"))

    first, second = [json.loads(line) for line in drain(reader).splitlines()]

    assert "again" == first["message"]
    assert ("log.dropped", 7) == (second["event"], second["lines"])


def test_a_reader_that_is_gone_kills_nobody(pipe: tuple[int, int]) -> None:
    """A broken pipe counts as lost lines."""
    reader, writer = pipe
    os.close(reader)
    sink = StreamSink(writer)
    for _ in range(3):
        sink.emit(record())

    assert 3 == sink._lost


def test_a_value_that_cannot_be_shown_kills_nobody(pipe: tuple[int, int]) -> None:
    """A log call never raises into the work that it reports on."""
    _, writer = pipe
    sink = StreamSink(writer)
    sink.setFormatter(make_formatter(encode_json))
    sink.emit(logging.LogRecord("library", logging.WARNING, __file__, 1, "%d", ("not a number",), None))

    assert 1 == sink._lost


def parse_journal(datagram: bytes) -> dict[str, str]:
    fields = {}
    while datagram:
        head, _, datagram = datagram.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            length = int.from_bytes(datagram[:8], "little")
            value, datagram = datagram[8 : 8 + length], datagram[9 + length :]
        fields[name.decode()] = value.decode()

    return fields


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.bind(str(tmp_path / "socket"))
        receiver.settimeout(5)
        yield receiver


def test_the_journal_receives_fields(journal: socket.socket) -> None:
    """One datagram per line, in the native protocol, redacted as every output."""
    sink = JournalSink(journal.getsockname())
    sink.setFormatter(make_formatter(encode_json))
    sink.emit(record("two\nlines hf_abcdefghijklmnop"))
    fields = parse_journal(journal.recv(1 << 20))
    sink.close()

    assert "two\nlines [redacted]" == fields["MESSAGE"]
    assert ("4", "hubsync") == (fields["PRIORITY"], fields["SYSLOG_IDENTIFIER"])
    assert ("library.logged", "library") == (fields["HUBSYNC_EVENT"], fields["HUBSYNC_LIBRARY"])


def test_the_longest_line_fits_in_a_datagram(journal: socket.socket) -> None:
    """A bounded line never meets EMSGSIZE."""
    sink = JournalSink(journal.getsockname())
    line = encode_json({**HEAD, **{f"field{number}": "ü" * 8000 for number in range(8)}, "exception": "x\n" * 4000})

    assert len(line.encode()) > MAX_LINE_BYTES / 8
    assert sink.deliver(line, patience_s=0)
    sink.close()


def test_a_journal_that_is_gone_or_full_blocks_nobody(tmp_path: Path, journal: socket.socket) -> None:
    """Lines are counted as lost; to wait for each would outlast the test's time by far."""
    gone = JournalSink(str(tmp_path / "none"))
    full = JournalSink(journal.getsockname())
    for sink in (gone, full):
        sink.setFormatter(make_formatter(encode_json))
        for _ in range(2000):
            sink.emit(record())
        sink.close()

    assert 2000 == gone._lost
    assert 0 < full._lost < 2000
