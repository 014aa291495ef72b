"""LogQL as far as config/monitoring uses it: reads a query strictly, and evaluates it over entries of a log.

Grafana's own grammar (npm's @grafana/lezer-logql) accepts a superset; what is not in here is refused.
"""

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]

_TOKEN = re.compile(
    r"""\s*(?:(?P<string>"(?:[^"\\]|\\.)*"|`[^`]*`)|(?P<duration>\d+[smhd]\b|\$__auto\b)|(?P<number>\d+(?:\.\d+)?)
    |(?P<word>[A-Za-z_]\w*)|(?P<sign>\|=|=~|!=|!~|>=|<=|==|[{}()\[\],|=<>*]))""",
    re.VERBOSE,
)
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_MATCHES: dict[str, Callable[[str, str], bool]] = {
    "=": lambda value, wanted: value == wanted,
    "!=": lambda value, wanted: value != wanted,
    "=~": lambda value, wanted: re.fullmatch(wanted, value) is not None,
    "!~": lambda value, wanted: re.fullmatch(wanted, value) is None,
}
_COMPARES: dict[str, Callable[[float, float], bool]] = {">": lambda a, b: a > b, ">=": lambda a, b: a >= b}
_OUTER: dict[str, Callable[[list[float]], float]] = {"max": max, "sum": sum, "count": lambda figures: float(len(figures))}
_OVER: dict[str, Callable[[list[float]], float]] = {
    "last_over_time": lambda figures: figures[-1],
    "max_over_time": max,
    "sum_over_time": sum,
    "count_over_time": lambda figures: float(len(figures)),
    "rate": lambda figures: float(len(figures)),
}


class QueryError(Exception):
    """A query is not in the grammar."""


@dataclass
class Selection:
    """The lines of a range: labels of the stream, words of the line, fields, conditions on them, the field to unwrap."""

    stream: list[tuple[str, str, str]] = field(default_factory=list)
    contained: list[str] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    conditions: list[tuple[str, str, str]] = field(default_factory=list)
    unwrapped: str | None = None
    window_s: float | None = None


@dataclass
class Query:
    """One level of a query: the function, what it groups by, what it is over, and what comes after."""

    function: str
    inner: "Query | Selection"
    by: tuple[str, ...] = ()
    unless: "Query | None" = None
    compare: tuple[str, float] | None = None

    def selections(self) -> Iterator[Selection]:
        """Yield all that is selected."""
        yield from [self.inner] if isinstance(self.inner, Selection) else self.inner.selections()
        if self.unless is not None:
            yield from self.unless.selections()

    def levels(self) -> Iterator["Query"]:
        """Yield this level and those below."""
        yield self
        for one in (self.inner, self.unless):
            if isinstance(one, Query):
                yield from one.levels()


def parse(text: str) -> Query | Selection:
    """Return the metric query, or the selection of lines, that *text* is."""
    tokens = _Tokens(text)
    parsed: Query | Selection = _selection(tokens) if tokens.next_is("{") else _expression(tokens)
    tokens.expect_end()

    return parsed


class _Tokens:
    def __init__(self, text: str) -> None:
        self._text, self._at = text, 0

    def _match(self) -> re.Match[str]:
        match = _TOKEN.match(self._text, self._at)
        if match is None:
            raise QueryError(f"at {self._text[self._at : self._at + 30]!r}")
        return match

    def next_is(self, *texts: str) -> bool:
        return bool(self._text[self._at :].strip()) and self._match()[0].strip() in texts

    def take(self, kind: str = "", text: str = "") -> str:
        match = self._match()
        if (kind and match.lastgroup != kind) or (text and match[0].strip() != text):
            raise QueryError(f"wanted {kind or text} at {self._text[self._at : self._at + 30]!r}")
        self._at = match.end()
        said = match[0].strip()

        return said[1:-1].replace('\\"', '"') if match.lastgroup == "string" else said

    def expect_end(self) -> None:
        if self._text[self._at :].strip():
            raise QueryError(f"left over: {self._text[self._at :]!r}")


def _expression(tokens: _Tokens) -> Query:
    query = _vector(tokens)
    if tokens.next_is("unless"):
        tokens.take()
        query.unless = _vector(tokens)
    if tokens.next_is(*_COMPARES):
        query.compare = tokens.take(), float(tokens.take("number"))
    if tokens.next_is("*"):
        tokens.take()
        tokens.take("number")

    return query


def _vector(tokens: _Tokens) -> Query:
    function = tokens.take("word")
    by: list[str] = []
    if function in _OUTER:
        if tokens.next_is("by"):
            tokens.take()
            by = list(_list(tokens, "(", ")"))
        tokens.take(text="(")
        inner: Query | Selection = _expression(tokens)
    elif function in _OVER or function == "absent_over_time":
        tokens.take(text="(")
        inner = _selection(tokens)
        tokens.take(text="[")
        inner.window_s = _seconds(tokens.take("duration"))
        tokens.take(text="]")
    else:
        raise QueryError(f"unknown function {function}")
    tokens.take(text=")")

    return Query(function, inner, tuple(by))


def _list(tokens: _Tokens, begin: str, end: str) -> Iterator[str]:
    tokens.take(text=begin)
    while True:
        yield tokens.take("word")
        if tokens.next_is(end):
            tokens.take()
            return
        tokens.take(text=",")


def _seconds(duration: str) -> float:
    return 300.0 if duration == "$__auto" else float(duration[:-1]) * _UNITS[duration[-1]]


def _selection(tokens: _Tokens) -> Selection:
    selection = Selection()
    tokens.take(text="{")
    while True:
        selection.stream.append((tokens.take("word"), tokens.take("sign"), tokens.take("string")))
        if tokens.next_is("}"):
            tokens.take()
            break
        tokens.take(text=",")
    while tokens.next_is("|", "|="):
        if tokens.take() == "|=":
            selection.contained.append(tokens.take("string"))
        else:
            _stage(tokens, selection)

    return selection


def _stage(tokens: _Tokens, selection: Selection) -> None:
    word = tokens.take("word")
    if word == "json":
        while True:
            name = tokens.take("word")
            tokens.take(text="=")
            selection.fields[name] = tokens.take("string")
            if not tokens.next_is(","):
                return
            tokens.take()
    elif word == "line_format":
        tokens.take("string")
    elif word == "unwrap":
        selection.unwrapped = tokens.take("word")
    else:
        selection.conditions.append((word, tokens.take("sign"), tokens.take("string")))


Line = tuple[float, str, Mapping[str, Any]]
"""A moment, the line as it was written, and the entry on it."""


def evaluate(query: Query, lines: Iterable[Line], now: float, stream: Mapping[str, str]) -> Vector:
    """Return the value of *query* at *now*, over *lines* of one *stream*."""
    lines = list(lines)
    if isinstance(query.inner, Selection):
        found = _over_time(query.function, query.inner, lines, now, stream)
    else:
        found = _group(query, evaluate(query.inner, lines, now, stream))
    if query.unless is not None:
        others = evaluate(query.unless, lines, now, stream)
        found = {labels: figure for labels, figure in found.items() if labels not in others}
    if query.compare is not None:
        sign, limit = query.compare
        found = {labels: figure for labels, figure in found.items() if _COMPARES[sign](figure, limit)}

    return found


def _over_time(function: str, selection: Selection, lines: list[Line], now: float, stream: Mapping[str, str]) -> Vector:
    series: dict[Labels, list[float]] = defaultdict(list)
    for moment, text, entry in lines:
        if not now - (selection.window_s or 0) < moment <= now or not all(one in text for one in selection.contained):
            continue
        labels = {**stream, **{name: _label(entry.get(path)) for name, path in selection.fields.items()}}
        if not all(_MATCHES[sign](labels.get(name, ""), wanted) for name, sign, wanted in selection.stream):
            continue
        if not all(_MATCHES[sign](labels.get(name, ""), wanted) for name, sign, wanted in selection.conditions):
            continue
        figure = labels.pop(selection.unwrapped, "") if selection.unwrapped else "1"
        if figure:  # else Loki sets __error__, which each query leaves out
            series[frozenset((name, value) for name, value in labels.items() if value)].append(float(figure))
    if function == "absent_over_time":
        return {} if series else {frozenset(): 1.0}

    return {labels: _OVER[function](figures) for labels, figures in series.items()}


def _label(value: object) -> str:
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def _group(query: Query, found: Vector) -> Vector:
    groups: dict[Labels, list[float]] = defaultdict(list)
    for labels, figure in found.items():
        groups[frozenset(one for one in labels if one[0] in query.by)].append(figure)

    return {labels: _OUTER[query.function](figures) for labels, figures in groups.items()}
