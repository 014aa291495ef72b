"""Sets up logging: one chain for our own events and for what libraries say, and one or two outputs.

The only module that configures structlog and the standard library's logging. Every output ends with redaction of the
final string. Levels, fields and sentences stand in ``events.py``, the shape of a line in ``lines.py``.
"""

import errno
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TextIO

from hubsync.errors import StateError, UsageError
from hubsync.monitor.events import describe_event
from hubsync.monitor.lines import encode_json, format_console, format_time
from hubsync.monitor.logger import bound, structlog
from hubsync.monitor.progress import clear_below
from hubsync.monitor.redact import redact, register_secret
from hubsync.monitor.sinks import JOURNAL_SOCKET, FileSink, JournalSink, StreamSink

__all__ = ["FORMATS", "LEVELS", "bound", "configure_logging", "redact", "register_secret"]

EventDict = structlog.typing.EventDict

log = structlog.get_logger()

LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
FORMATS = ("auto", "console", "json", "journal")

# Libraries speak from WARNING on; these are exceptions, for "info" and quieter, and for "debug".
_LIBRARY_LEVELS = {
    "apscheduler": (logging.ERROR, logging.INFO),  # warns whenever a run is longer than its interval, as ours may be
    "git": (logging.WARNING, logging.DEBUG),
    "httpcore2": (logging.WARNING, logging.INFO),  # a line for every packet
    "httpx2": (logging.WARNING, logging.DEBUG),
    "huggingface_hub": (logging.WARNING, logging.DEBUG),
    "watchdog": (logging.ERROR, logging.INFO),  # a line for every raw event; what it warns of is said as watch.overflowed
}

# One list for ever: loggers keep a reference to it.
_PROCESSORS: list[structlog.typing.Processor] = [
    structlog.stdlib.filter_by_level,
    structlog.contextvars.merge_contextvars,
    structlog.processors.StackInfoRenderer(),
    structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
]


def configure_logging(
    *,
    level: str = "info",
    log_format: str = "auto",
    file: Path | None = None,
    stream: TextIO | None = None,
    secrets: Iterable[str] = (),
    environment: Mapping[str, str] | None = None,
) -> None:
    """Send the log to *stream* (standard error) or the journal and, as JSON lines, also to *file*.

    May be called again, for example at a reload. Raises UsageError for an unknown level or format, StateError if
    *file* cannot be opened.
    """
    _check_choice("log level", level, LEVELS)
    _check_choice("log format", log_format, FORMATS)
    for secret in secrets:
        register_secret(secret)

    stream = sys.stderr if stream is None else stream
    environment = os.environ if environment is None else environment
    sinks = [_open_sink(choose_format(log_format, stream, environment), stream, environment)]
    if file is not None:
        sinks.append(_open_file(file))

    structlog.configure(
        processors=_PROCESSORS,
        logger_factory=lambda *_: logging.getLogger("hubsync"),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    _install(sinks)
    _set_levels(level)
    _log_uncaught()


def add_sink(sink: logging.Handler) -> None:
    """Give *sink* each line as well, as JSON, until logging is configured anew."""
    sink.setFormatter(make_formatter(encode_json))
    logging.getLogger().addHandler(sink)


def name_of(record: logging.LogRecord) -> str:
    """Return the event that *record* is of."""
    return str(record.msg.get("event")) if isinstance(record.msg, dict) else "library.logged"


def discard_log() -> None:
    """Log nothing from now on: a command that only rehearses says nothing of what did not happen."""
    structlog.configure(processors=[_drop])


def _drop(_logger: object, _method: str, _entry: EventDict) -> EventDict:
    raise structlog.DropEvent


def choose_format(log_format: str, stream: TextIO, environment: Mapping[str, str]) -> str:
    """Return the format that *log_format* means for *stream*: auto is console on a terminal, journal under systemd."""
    if log_format == "journal":
        return "journal" if Path(JOURNAL_SOCKET).exists() else "json"
    if log_format != "auto":
        return log_format
    if stream.isatty():
        return "console"

    return "journal" if _is_journal(stream, environment) and Path(JOURNAL_SOCKET).exists() else "json"


def make_formatter(render: Callable[[EventDict], str]) -> logging.Formatter:
    """Return the formatter that turns a record, ours or a library's, into a redacted line by *render*."""
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.contextvars.merge_contextvars],
        processors=[
            structlog.processors.format_exc_info,  # plain: the other renderers print local variables, tokens too
            build_entry,
            lambda _logger, _method, entry: redact(render(entry)),
        ],
    )


def build_entry(_logger: object, _method: str, event_dict: EventDict) -> EventDict:
    """Return the entry of a record: the time, level, event and sentence first, then the fields.

    A library's record becomes the event ``library.logged``, so that nobody's alerts depend on a library's wording.
    """
    record: logging.LogRecord = event_dict.pop("_record")
    is_ours = event_dict.pop("_from_structlog")
    said = str(event_dict.pop("event"))
    if is_ours:
        event, message = said, describe_event(said, event_dict)
    else:
        event, message = "library.logged", said
        event_dict["library"] = record.name.partition(".")[0]

    return {
        "timestamp": format_time(datetime.fromtimestamp(record.created, UTC)),
        "level": _level_name(record.levelno),
        "event": event,
        "message": message,
        **event_dict,
    }


class _LibraryLogger(logging.Logger):
    """A logger whose records go to our handlers only.

    huggingface_hub gives its logger a handler for standard error when it is imported; what went there would be
    neither redacted nor JSON.
    """

    def callHandlers(self, record: logging.LogRecord) -> None:  # noqa: N802 - the base class's name
        logging.getLogger().callHandlers(record)


def _check_choice(what: str, value: str, choices: Iterable[str]) -> None:
    if value not in choices:
        raise UsageError(f"unknown {what} {value!r}", hint=f"use one of: {', '.join(choices)}")


def _open_sink(log_format: str, stream: TextIO, environment: Mapping[str, str]) -> logging.Handler:
    if log_format == "journal":
        sink: logging.Handler = JournalSink()
    else:
        descriptor = _descriptor(stream)
        sink = logging.StreamHandler(stream) if descriptor is None else StreamSink(descriptor)

    colour = stream.isatty() and not environment.get("NO_COLOR")
    render = partial(_render_console, colour=colour) if log_format == "console" else encode_json
    sink.setFormatter(make_formatter(render))
    return sink


def _render_console(entry: EventDict, *, colour: bool) -> str:
    return clear_below() + format_console(entry, colour=colour)


def _open_file(path: Path) -> logging.Handler:
    try:
        sink = FileSink(path)
    except OSError as error:
        hint = "create its directory, let the service's user write there, or remove [log] file"
        if error.errno == errno.ENXIO:
            hint = "let somebody read that FIFO, or name a file"
        raise StateError(f"cannot write the log file {path}: {error.strerror}", hint=hint) from error

    sink.setFormatter(make_formatter(encode_json))
    return sink


def _install(sinks: list[logging.Handler]) -> None:
    logging.raiseExceptions = False  # a sink's trouble is no reason to print tracebacks to another
    logging.setLoggerClass(_LibraryLogger)
    logging.captureWarnings(capture=True)
    for logger in logging.Logger.manager.loggerDict.values():
        if isinstance(logger, logging.Logger):
            logger.handlers.clear()
            logger.propagate = True

    root = logging.getLogger()
    former, root.handlers = root.handlers, sinks
    for handler in former:
        handler.close()


def _set_levels(level: str) -> None:
    is_debug = level == "debug"
    logging.getLogger().setLevel(logging.DEBUG if is_debug else max(logging.WARNING, LEVELS[level]))
    logging.getLogger("hubsync").setLevel(LEVELS[level])
    for library, (quiet, loud) in _LIBRARY_LEVELS.items():
        logging.getLogger(library).setLevel(loud if is_debug else max(quiet, LEVELS[level]))


def _log_uncaught() -> None:
    """Send the tracebacks that Python would print, tokens and all, through the log."""
    sys.excepthook = _log_crash
    threading.excepthook = _log_dead_thread


def _log_crash(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not issubclass(kind, KeyboardInterrupt):
        info = (kind, error, trace)
        log.error("thread.failed", thread="main", error=str(error), error_kind="internal", exc_info=info)


def _log_dead_thread(args: threading.ExceptHookArgs) -> None:
    if args.exc_value is None or issubclass(args.exc_type, SystemExit):
        return

    name = args.thread.name if args.thread is not None else "unknown"
    info = (args.exc_type, args.exc_value, args.exc_traceback)
    log.error("thread.failed", thread=name, error=str(args.exc_value), error_kind="internal", exc_info=info)


def _level_name(number: int) -> str:
    return next((name for name, floor in reversed(LEVELS.items()) if number >= floor), "debug")


def _descriptor(stream: TextIO) -> int | None:
    try:
        return stream.fileno()
    except (OSError, ValueError, AttributeError):  # a StringIO, or closed
        return None


def _is_journal(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Tell whether *stream* is the one that the service manager connected to the journal."""
    descriptor = _descriptor(stream)
    if descriptor is None:
        return False

    status = os.fstat(descriptor)
    return environment.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"
