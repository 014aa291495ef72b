"""The log calls in the source and the catalogue say the same."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from support.catalogue import find_strange

import hubsync
from hubsync.monitor.events import (
    CATALOGUE,
    COMMON_FIELDS,
    Event,
    describe_event,
    draw_catalogue,
    draw_overview,
    mentioned_fields,
)

SOURCES = sorted(Path(hubsync.__file__).parent.rglob("*.py"))
LOGGERS = {"log", "logger", "_log", "_logger"}
LEVELS = {
    "debug": "debug",
    "info": "info",
    "warn": "warning",
    "warning": "warning",
    "error": "error",
    "exception": "error",
    "critical": "error",
    "fatal": "error",
}
BINDERS = {"bind", "new", "bound", "bound_contextvars", "bind_contextvars"}
# The embedded Hub is a server of its own and logs free text, as a library does.
STDLIB_LOG = re.compile(r"^log = logging\.getLogger", re.MULTILINE)
PLUMBING = {"exc_info", "stack_info"}
OPTIONAL = re.compile(r"\[[^\[\]]*\]")
FIELD = re.compile(r"\{(\w+)[}:]")


@dataclass(frozen=True)
class LogCall:
    place: str
    name: str | None
    level: str
    fields: frozenset[str | None]


def is_logger(node: ast.expr) -> bool:
    """Tell whether *node* is `log`, `self._log`, or what one of them returns, as in `log.bind(...)`."""
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name):
            return name in LOGGERS
        case ast.Call(func=ast.Attribute(value=value, attr=method)):
            return method == "get_logger" or is_logger(value)

    return False


def read_calls(source: str, place: str) -> Iterator[LogCall]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=method), args=args) if method in LEVELS and is_logger(value):
                names = [arg.value for arg in args if isinstance(arg, ast.Constant) and isinstance(arg.value, str)]
                name = names[0] if len(args) == len(names) == 1 else None
                fields = frozenset(keyword.arg for keyword in node.keywords) - PLUMBING
                yield LogCall(f"{place}:{node.lineno}", name, LEVELS[method], fields)


def read_bound(source: str, place: str) -> Iterator[tuple[str, str | None]]:
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=value, attr=method)) if method in BINDERS and (
                is_logger(value) or method.endswith("contextvars")
            ):
                pass
            case ast.Call(func=ast.Name(id=method)) if method in BINDERS:
                pass
            case _:
                continue

        yield from ((f"{place}:{node.lineno}", keyword.arg) for keyword in node.keywords)


def find_mistakes(call: LogCall) -> list[str]:
    if call.name is None:
        return [f"{call.place}: the event's name must be one constant string, and all else keywords"]

    event = CATALOGUE.get(call.name)
    if event is None:
        return [f"{call.place}: {call.name} is not in the catalogue"]

    unlisted = sorted(str(field) for field in call.fields - COMMON_FIELDS - set(event.fields))
    mistakes = [f"{call.place}: {call.name} has no field {field}" for field in unlisted]
    if call.level != event.level:
        mistakes.append(f"{call.place}: {call.name} is logged at {call.level}, listed at {event.level}")

    return mistakes


def all_calls() -> list[LogCall]:
    root = Path(hubsync.__file__).parent.parent
    texts = {str(path.relative_to(root)): path.read_text("utf-8") for path in SOURCES}
    return [call for place, text in texts.items() if not STDLIB_LOG.search(text) for call in read_calls(text, place)]


def test_what_is_logged_is_listed() -> None:
    """Each log call uses a listed name, its level and its fields, all written out."""
    mistakes = [mistake for call in all_calls() for mistake in find_mistakes(call)]

    assert [] == mistakes


def test_what_is_listed_is_logged() -> None:
    """The catalogue promises no event that is never logged; libraries' records have no call of ours."""
    listed = {event.name for event in CATALOGUE.values() if event.level != "any"}

    assert set() == listed - {call.name for call in all_calls()}


def test_a_sentence_finds_its_fields() -> None:
    """What a sentence must name is given by each call; what it may name, and what is listed, by at least one."""
    bound = {str(field) for path in SOURCES for _, field in read_bound(path.read_text("utf-8"), path.name)}
    calls = all_calls()
    unnamed = [
        (call.place, call.name, field)
        for call in calls
        for field in needed_fields(str(call.name)) - bound - {str(field) for field in call.fields}
    ]
    never = [
        (event.name, field)
        for event in CATALOGUE.values()
        for field in (mentioned_fields(event.name) | set(event.fields)) - bound
        if event.level != "any" and not any(field in call.fields for call in calls if call.name == event.name)
    ]

    assert ([], []) == (unnamed, never)


def needed_fields(name: str) -> frozenset[str]:
    """Return the fields outside of a sentence's optional parts: without one of them it shows a question mark."""
    return frozenset(FIELD.findall(OPTIONAL.sub("", CATALOGUE[name].message))) if name in CATALOGUE else frozenset()


def test_bound_fields_are_common() -> None:
    """What is bound for a stretch of work may meet any event, so any event must allow it."""
    bound = [found for path in SOURCES for found in read_bound(path.read_text("utf-8"), path.name)]

    assert [] == [(place, field) for place, field in bound if field not in COMMON_FIELDS]


@pytest.mark.parametrize(
    ("source", "mistake"),
    [
        ('log.info("nobody.listed")', "nobody.listed is not in the catalogue"),
        ('self._log.info("daemon.ready", colour=1)', "daemon.ready has no field colour"),
        ('log.bind(target=t).error("daemon.ready")', "daemon.ready is logged at error, listed at info"),
        ('log.info(f"daemon.{word}")', "one constant string"),
        ('log.info("daemon.ready", extra)', "one constant string"),
        ('logger.info("daemon.ready", **fields)', "daemon.ready has no field None"),
    ],
)
def test_a_mistake_is_found(source: str, mistake: str) -> None:
    """The check sees every way in which a call and the catalogue can differ."""
    (found,) = [mistake for call in read_calls(source, "x.py") for mistake in find_mistakes(call)]

    assert mistake in found


@pytest.mark.parametrize("event", CATALOGUE.values(), ids=CATALOGUE)
def test_an_event_is_complete(event: Event) -> None:
    """Names are lower-case noun.past_participle, sentences use listed fields, and everything is explained."""
    assert re.fullmatch(r"[a-z]+\.[a-z_]+|heartbeat", event.name)
    assert mentioned_fields(event.name) <= COMMON_FIELDS | set(event.fields)
    assert len(event.fields) == len(set(event.fields))
    assert not COMMON_FIELDS & set(event.fields)
    assert event.meaning.endswith(".")
    assert event.action or event.level not in {"warning", "error"}
    assert event.action == "" or event.action.endswith(".")


def test_the_page_of_events_is_the_catalogue() -> None:
    """config/monitoring/events.md is what `hubsync events --markdown` prints, with each event on a row of five cells."""
    rows = draw_catalogue().splitlines()[-len(CATALOGUE) :]

    assert draw_catalogue() == (Path(hubsync.__file__).parents[1] / "config/monitoring/events.md").read_text("utf-8")
    assert [5] * len(CATALOGUE) == [len(re.findall(r"(?<!\\)\|", row)) - 1 for row in rows]


def test_the_table_in_the_readme_is_the_catalogue() -> None:
    """It has a row for each event, from the same source as `hubsync events`."""
    readme = (Path(hubsync.__file__).parents[1] / "README.md").read_text("utf-8")
    shown = readme.partition("<!-- events: begin -->\n\n")[2].partition("\n<!-- events: end -->")[0]

    assert draw_overview() == shown
    assert len(CATALOGUE) + 2 == len(shown.splitlines())


def test_a_sentence_puts_numbers_in_their_units() -> None:
    """Bytes, durations, counts and commits read as a person would write them."""
    fields = {"target": "sft", "mirror": "acme/x", "files": 1, "bytes": 12_400_000_000, "took_s": 130.2, "commit": "9" * 40}

    assert "sft: published 1 file (12.4 GB) to acme/x as 999999999 in 2m10s" == describe_event("mirror.published", fields)


def test_a_sentence_leaves_out_what_is_missing() -> None:
    """Optional parts go without a trace, others show that something is missing."""
    assert "published ? to acme/x" == describe_event("mirror.published", {"mirror": "acme/x", "took_s": None})


def test_a_path_is_never_a_template() -> None:
    """Braces and brackets in a value stay as they are."""
    assert "held [{reason}]: {path}" == describe_event("file.held", {"path": "[{reason}]", "reason": "{path}"})


def test_an_unlisted_event_is_its_own_sentence() -> None:
    """A mistake in the catalogue costs the sentence, not the line."""
    assert "nobody.listed" == describe_event("nobody.listed", {"target": "sft"})
    assert frozenset() == mentioned_fields("nobody.listed")


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"event": "daemon.ready", "level": "info", "targets": 1, "took_s": 0.5, "timestamp": "", "message": ""}, ""),
        ({"event": "daemon.readied", "level": "info"}, "daemon.readied is not in the catalogue"),
        ({"event": "daemon.ready", "level": "error"}, "daemon.ready at error"),
        ({"event": "daemon.ready", "level": "info", "seconds": 1}, "daemon.ready has ['seconds']"),
        ({"event": "daemon.ready", "level": "info", "took_s": "1s"}, "daemon.ready: ['took_s'] hold something else"),
        ({"event": "library.logged", "level": "error", "library": "git", "lasted": 1}, ""),
    ],
)
def test_what_is_strange_is_found(entry: dict[str, object], expected: str) -> None:
    """The check that runs over the log of every daemon in the tests, and of the random histories, can fail."""
    assert expected == find_strange(entry)
