import io
import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import structlog

from hubsync.errors import StateError, UsageError
from hubsync.monitor.events import CATALOGUE, COMMON_FIELDS
from hubsync.monitor.log import bound, choose_format, configure_logging, make_formatter, register_secret
from hubsync.monitor.redact import MASK
from hubsync.monitor.sinks import JOURNAL_SOCKET

pytestmark = pytest.mark.usefixtures("restored_logging")

CANARY = "hf_" + "cAnArY" * 5
log = structlog.get_logger()


class Terminal(io.StringIO):
    def isatty(self) -> bool:  # noqa: D102 - the base class says it
        return True


def configured(**settings: Any) -> io.StringIO:
    stream = io.StringIO()
    configure_logging(stream=stream, environment={}, **settings)
    return stream


def documents(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_the_documented_object() -> None:
    """The time in UTC, the level, the event and its sentence, then the fields as they were given."""
    stream = configured()
    log.info("mirror.published", target="sft", mirror="acme/x", files=3, bytes=7, commit="9d5940", took_s=0.25)
    (line,) = documents(stream)

    assert ["timestamp", "level", "event", "message", "target", "mirror"] == list(line)[:6]
    assert line.pop("timestamp").endswith("Z")
    assert "sft: published 3 files (7 B) to acme/x as 9d5940 in 0.2s" == line["message"]
    assert (3, 7, 0.25) == (line["files"], line["bytes"], line["took_s"])
    assert set(line) <= COMMON_FIELDS | set(CATALOGUE["mirror.published"].fields)


def test_bound_fields_are_on_every_line() -> None:
    """The target and mirror are bound once for a stretch of work, for libraries too."""
    stream = configured()
    with bound(target="sft", mirror="acme/x"):
        log.info("mirror.recovered")
        logging.getLogger("urllib3").warning("slow")

    log.info("daemon.ready")

    assert ["sft", "sft", None] == [line.get("target") for line in documents(stream)]


def test_a_library_has_one_event() -> None:
    """Libraries' wordings are messages, never events that an alert could depend on."""
    stream = configured()
    logging.getLogger("huggingface_hub.file_download").warning("took %d s", 3)
    (line,) = documents(stream)

    assert ("library.logged", "huggingface_hub", "took 3 s", "warning") == (
        line["event"], line["library"], line["message"], line["level"]
    )  # fmt: skip


@pytest.mark.parametrize(
    ("level", "library", "said", "expected"),
    [
        ("info", "git.cmd", logging.INFO, False),
        ("info", "git.cmd", logging.WARNING, True),
        ("info", "apscheduler.scheduler", logging.WARNING, False),
        ("info", "apscheduler.scheduler", logging.ERROR, True),
        ("info", "some_unknown_library", logging.INFO, False),
        ("error", "some_unknown_library", logging.WARNING, False),
        ("error", "git.cmd", logging.WARNING, False),
        ("debug", "git.cmd", logging.DEBUG, True),
        ("debug", "some_unknown_library", logging.DEBUG, True),
        ("debug", "watchdog.observers.inotify_buffer", logging.DEBUG, False),
    ],
)
def test_libraries_have_levels_of_their_own(level: str, library: str, said: int, *, expected: bool) -> None:
    """What a library says at each level is heard only if a person would want it."""
    stream = configured(level=level)
    logging.getLogger(library).log(said, "x")

    assert expected == bool(stream.getvalue())


@pytest.mark.parametrize(("level", "expected"), [("debug", 3), ("info", 2), ("warning", 1), ("error", 0)])
def test_our_own_level_is_the_configured_one(level: str, expected: int) -> None:
    """A level leaves out everything below it."""
    stream = configured(level=level)
    log.debug("file.captured")
    log.info("daemon.ready")
    log.warning("watch.overflowed")

    assert expected == len(documents(stream))


def raise_with_local(token: str) -> None:
    local = {"token": token}
    raise ValueError(f"refused: https://user:{token}@hub.example/x {len(local)}")


@pytest.mark.parametrize("log_format", ["json", "console"])
@pytest.mark.parametrize("secret", [CANARY, "opaque-but-registered"])
def test_no_credential_reaches_an_output(log_format: str, secret: str, tmp_path: Path) -> None:
    """Not by a field, a nested value, a traceback, a chained cause, a library or a warning; in no format."""
    stream = configured(log_format=log_format, level="debug", secrets=[secret], file=tmp_path / "log")
    log.info("daemon.ready", targets=secret, mirrors={"Authorization": f"Bearer {secret}", "x": [secret]})
    logging.getLogger("httpx2").debug("PUT https://h/?X-Amz-Signature=%s headers=%r", secret, {"authorization": secret})
    try:
        try:
            raise_with_local(secret)
        except ValueError as error:
            raise RuntimeError(secret) from error
    except RuntimeError:
        log.exception("schedule.failed", job="x", error=secret)
        logging.getLogger("some_library").exception("failed with %s", secret)

    output = stream.getvalue() + (tmp_path / "log").read_text()

    assert output.count("Traceback (most recent call last)") == 8
    assert MASK in output
    assert secret not in output


def test_redaction_is_the_last_step() -> None:
    """Whatever a way of rendering puts into a line, the line itself is redacted."""
    formatter = make_formatter(lambda entry: f"{entry['message']} {CANARY}")
    record = logging.LogRecord("library", logging.WARNING, __file__, 1, CANARY, None, None)

    assert f"{MASK} {MASK}" == formatter.format(record)


def test_a_secret_can_be_registered_late() -> None:
    """A token that is read again later is masked from then on."""
    stream = configured()
    register_secret("rotated-token-2")
    log.error("schedule.failed", job="x", error="rotated-token-2 refused")

    assert f"{MASK} refused" == documents(stream)[0]["error"]


def test_two_outputs_say_the_same(tmp_path: Path) -> None:
    """A file gets JSON beside whatever the stream gets."""
    stream = configured(log_format="console", file=tmp_path / "hubsync.jsonl")
    log.info("daemon.ready", targets=2)

    assert "ready: 2 targets  daemon.ready" in stream.getvalue()
    assert "ready: 2 targets" == json.loads((tmp_path / "hubsync.jsonl").read_text())["message"]


def test_a_log_file_follows_rotation(tmp_path: Path) -> None:
    """Renaming the file is enough; no signal is needed. A directory that vanishes costs lines, not the daemon."""
    path = tmp_path / "logs" / "hubsync.jsonl"
    path.parent.mkdir()
    configured(file=path)
    log.info("daemon.ready")
    path.rename(tmp_path / "old")
    log.info("daemon.stopping")
    path.unlink()
    path.parent.rmdir()
    log.info("daemon.stopped")

    assert "daemon.ready" in (tmp_path / "old").read_text()
    assert not path.exists()

    path.parent.mkdir()
    log.info("daemon.started")

    assert "daemon.started" in path.read_text()


def test_a_log_file_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    """It is said at the start, with a way out."""
    with pytest.raises(StateError, match="cannot write the log file") as caught:
        configured(file=tmp_path / "missing" / "log")

    assert "create its directory" in caught.value.hint


def test_a_fifo_that_nobody_reads_is_not_waited_for(tmp_path: Path) -> None:
    """A start that hangs without a word helps nobody."""
    os.mkfifo(tmp_path / "log")
    with pytest.raises(StateError, match="cannot write the log file") as caught:
        configured(file=tmp_path / "log")

    assert "FIFO" in caught.value.hint


def test_a_fifo_that_is_full_loses_lines_only(tmp_path: Path) -> None:
    """Its reader may be gone to sleep; what hubsync does goes on."""
    os.mkfifo(tmp_path / "log")
    reader = os.open(tmp_path / "log", os.O_RDONLY | os.O_NONBLOCK)
    try:
        configured(file=tmp_path / "log")
        for _ in range(2000):
            log.info("daemon.ready", config="x" * 100)

        assert b'"daemon.ready"' in os.read(reader, 1000)
    finally:
        os.close(reader)


@pytest.mark.parametrize("settings", [{"level": "loud"}, {"log_format": "xml"}])
def test_an_unknown_choice_is_an_error(settings: dict[str, str]) -> None:
    """The choices are named."""
    with pytest.raises(UsageError) as caught:
        configured(**settings)

    assert "use one of" in caught.value.hint


def test_a_library_cannot_print_past_us(capfd: pytest.CaptureFixture[str]) -> None:
    """A handler that a library gives its own logger is not used: it would print unredacted text."""
    stale = logging.getLogger("stale_library")
    stale.addHandler(logging.StreamHandler(sys.__stderr__))
    stream = configured()
    for name in ("stale_library", "made_later"):
        logger = logging.getLogger(name)
        if name != "stale_library":
            logger.addHandler(logging.StreamHandler(sys.__stderr__))
        logger.error("x")

    assert 2 == len(documents(stream))
    assert "" == capfd.readouterr().err


def test_a_dead_thread_is_logged() -> None:
    """An error that nobody caught is a line with its traceback, not a print."""
    stream = configured()
    thread = threading.Thread(target=raise_with_local, args=(CANARY,), name="worker")
    thread.start()
    thread.join()
    (line,) = documents(stream)

    assert ("thread.failed", "worker", "error") == (line["event"], line["thread"], line["level"])
    assert "ValueError" in line["exception"]
    assert CANARY not in stream.getvalue()


def test_a_crash_is_logged() -> None:
    """The traceback of the whole program goes through the log as well."""
    code = f"from hubsync.monitor.log import *; configure_logging(log_format='json'); raise ValueError('{CANARY}')"
    result = subprocess.run([sys.executable, "-c", code], check=False, stderr=subprocess.PIPE, text=True)
    line = json.loads(result.stderr)

    assert (1, "thread.failed", MASK) == (result.returncode, line["event"], line["error"])


def test_setting_up_again_replaces_the_outputs() -> None:
    """A reload may change level and format; no line appears twice."""
    first = configured()
    second = configured(level="warning")
    log.info("daemon.ready")
    log.warning("watch.overflowed")

    assert "" == first.getvalue()
    assert 1 == len(documents(second))


def test_auto_is_the_console_on_a_terminal() -> None:
    """A person gets sentences."""
    assert "console" == choose_format("auto", Terminal(), {"JOURNAL_STREAM": "1:1"})


def test_auto_is_json_elsewhere() -> None:
    """A pipe or a file gets JSON; an inherited variable that names another stream does not count."""
    with Path("/dev/null").open("w", encoding="utf-8") as stream:
        assert "json" == choose_format("auto", stream, {"JOURNAL_STREAM": "1:1"})

    assert "json" == choose_format("auto", io.StringIO(), {})


def test_auto_is_the_journal_under_systemd() -> None:
    """The stream is the one that the service manager connected; without a journal's socket it stays JSON."""
    with Path("/dev/null").open("w", encoding="utf-8") as stream:
        status = os.fstat(stream.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        expected = "journal" if Path(JOURNAL_SOCKET).exists() else "json"

        assert expected == choose_format("auto", stream, environment)


@pytest.mark.parametrize(("environment", "expected"), [({}, True), ({"NO_COLOR": "1"}, False)])
def test_colour_needs_a_terminal_and_consent(environment: dict[str, str], *, expected: bool) -> None:
    """See https://no-color.org."""
    stream = Terminal()
    configure_logging(stream=stream, environment=environment)
    log.info("daemon.ready")

    assert expected == ("\x1b[" in stream.getvalue())


def test_warnings_go_through_the_log() -> None:
    """Python's warnings are a library's words too."""
    code = (
        "import warnings; from hubsync.monitor.log import *; configure_logging(log_format='json');"
        f"warnings.warn('odd {CANARY}')"
    )
    result = subprocess.run([sys.executable, "-c", code], check=True, stderr=subprocess.PIPE, text=True)
    line = json.loads(result.stderr)

    assert ("library.logged", "py") == (line["event"], line["library"])
    assert f"odd {MASK}" in line["message"]
