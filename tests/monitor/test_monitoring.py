"""The alert rules, the dashboard and the shippers' configs fit the log that hubsync writes."""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml
from support.logql import Query, QueryError, Selection, parse
from support.running import ROOT

from hubsync.monitor.events import CATALOGUE, COMMON_FIELDS
from hubsync.monitor.lines import MAX_LINE_BYTES
from hubsync.monitor.status import MirrorState, TargetState

MONITORING = ROOT / "config" / "monitoring"
STREAM_LABELS = {"job", "host"}
LABEL = re.compile(r"\$labels\.(\w+)")
LEGEND = re.compile(r"\{\{\s*\.?(\w+)\s*\}\}")


def rules() -> list[dict[str, Any]]:
    document = yaml.safe_load((MONITORING / "loki-rules.yaml").read_text())
    return [rule for group in document["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    document: dict[str, Any] = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    return document


def panels() -> list[tuple[str, str, str]]:
    """Return title, query and legend of all that the dashboard asks for."""
    board = dashboard()
    drawn = [
        (panel["title"], target["expr"], target.get("legendFormat", ""))
        for panel in board["panels"]
        for target in panel["targets"]
    ]
    return drawn + [(one["name"], one["expr"], "") for one in board["annotations"]["list"]]


def queries() -> list[Any]:
    named = [(rule["alert"], rule["expr"]) for rule in rules()] + [(title, query) for title, query, _ in panels()]
    return [pytest.param(query, id=name) for name, query in named]


def selections(text: str) -> Iterator[Selection]:
    parsed = parse(text)
    yield from [parsed] if isinstance(parsed, Selection) else parsed.selections()


def events_of(selection: Selection) -> list[str]:
    """Return the events that *selection* is about: named by a condition, or by the words of the line."""
    named = [wanted for name, sign, wanted in selection.conditions if name == "event" and sign in {"=", "=~"}]
    named += [one.removeprefix('"event":"').removesuffix('"') for one in selection.contained if '"event":' in one]
    return [event for one in named for event in one.split("|")]


@pytest.mark.parametrize("query", queries())
def test_a_query_names_what_the_log_has(query: str) -> None:
    """Each event is in the catalogue, and each field that is read is one of that event."""
    for selection in selections(query):
        events = events_of(selection)
        known = set(COMMON_FIELDS).union(*(CATALOGUE[event].fields for event in events))
        if not events:  # any event: the fields that several have
            known |= {field for event in CATALOGUE.values() for field in event.fields}

        assert set() == set(selection.fields.values()) - known
        assert {name: name for name in selection.fields} == selection.fields


@pytest.mark.parametrize("query", queries())
def test_a_query_uses_what_it_reads(query: str) -> None:
    """What it compares, unwraps and groups by was read from the line, or is a label that the shippers set."""
    for selection in selections(query):
        read = selection.fields.keys() | STREAM_LABELS | {"__error__"}
        used = {name for name, _, _ in selection.conditions} | ({selection.unwrapped} if selection.unwrapped else set())

        assert set() == used - read
        assert ("job", "=", "hubsync") == selection.stream[0]
    parsed = parse(query)
    if isinstance(parsed, Query):
        grouped = {label for level in parsed.levels() for label in level.by}
        readable = STREAM_LABELS.union(*(one.fields for one in parsed.selections()))
        assert set() == grouped - readable


@pytest.mark.parametrize("query", queries())
def test_a_query_asks_for_states_that_exist(query: str) -> None:
    """``state="parked"`` and its like are words of the status, and levels those of the log."""
    states = {"state": {*get_args(MirrorState), *get_args(TargetState)}, "level": {"debug", "info", "warning", "error"}}
    for selection in selections(query):
        for name, _, wanted in selection.conditions:
            if name in states:
                assert set(wanted.split("|")) <= states[name]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_says_what_to_do(rule: dict[str, Any]) -> None:
    """Its texts name only labels that the query leaves, and a command or the cure itself."""
    parsed = parse(rule["expr"])
    assert isinstance(parsed, Query)
    texts = " ".join(rule["annotations"].values())

    assert {"alert", "expr", "labels", "annotations"} == rule.keys() - {"for"}
    assert set(LABEL.findall(texts)) <= set(parsed.by)
    assert rule["labels"]["severity"] in {"critical", "warning"}
    assert "`" in texts or "$labels.hint" in texts or rule["alert"] == "HubsyncSilentEverywhere"


def test_alerts_have_names_of_their_own() -> None:
    """The ruler refuses two of one name in a group."""
    names = [rule["alert"] for rule in rules()]

    assert len(names) == len(set(names))


@pytest.mark.parametrize(("title", "query", "legend"), panels(), ids=[title for title, _, _ in panels()])
def test_a_legend_names_what_its_query_leaves(title: str, query: str, legend: str) -> None:
    """A label that is grouped away would show as nothing."""
    parsed = parse(query)
    left = parsed.by if isinstance(parsed, Query) else ()

    assert title
    assert set(LEGEND.findall(legend)) <= set(left)


def test_the_dashboard_is_laid_out() -> None:
    """Panels have ids of their own, lie within 24 columns, and none lies on another."""
    drawn = dashboard()["panels"]
    cells = [
        (x, y)
        for panel in drawn
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]

    assert len(drawn) == len({panel["id"] for panel in drawn})
    assert len(cells) == len(set(cells))
    assert 24 > max(x for x, _ in cells)
    assert all(panel["description"].endswith(".") for panel in drawn)


@pytest.mark.parametrize(
    "query",
    [
        'sum by (a) (rate({job="hubsync"} | json | [5m]))',
        'max(last_over_time({job="hubsync"} [5m])',
        'nonsense({job="hubsync"} [5m])',
        "{job=hubsync}",
        '{job="hubsync"} | json a=b',
    ],
)
def test_what_is_no_query_is_refused(query: str) -> None:
    """The check of the grammar can fail."""
    with pytest.raises(QueryError):
        parse(query)


# --- shippers


def wired(document: dict[str, Any], kind: str) -> set[str]:
    return {name for one in document[kind].values() for name in one.get("inputs", ())}


def test_vector_is_wired() -> None:
    """Each input is a component that is declared, none is left out, and no line is too long for it."""
    config = yaml.safe_load((MONITORING / "vector.yaml").read_text())

    assert config["sources"].keys() | config["transforms"].keys() == wired(config, "transforms") | wired(config, "sinks")
    assert {"job": "hubsync"}.items() <= config["sinks"]["loki"]["labels"].items()
    assert MAX_LINE_BYTES < config["sources"]["hubsync_file"]["max_line_bytes"]


def test_the_collector_is_wired() -> None:
    """The pipeline uses what is declared, all of it, and the labels are those of the queries."""
    config = yaml.safe_load((MONITORING / "otel-collector.yaml").read_text())
    pipeline = config["service"]["pipelines"]["logs/hubsync"]

    assert {kind: set(names) for kind, names in pipeline.items()} == {kind: set(config[kind]) for kind in pipeline}
    assert STREAM_LABELS == {one["key"] for one in config["processors"]["resource/hubsync"]["attributes"]}
    assert "100KiB" == config["receivers"]["filelog/hubsync"]["max_log_size"]


@pytest.mark.parametrize("name", ["alloy.alloy", "journald.alloy"])
def test_alloy_is_wired(name: str) -> None:
    """Braces close, each component that is forwarded to is declared, and the labels are those of the queries."""
    text = re.sub(r"(?m)//(?!\w).*$", "", (MONITORING / name).read_text())
    declared = {f"{kind}.{label}" for kind, label in re.findall(r'(?m)^([\w.]+) "(\w+)" \{', text)}
    used = set(re.findall(r"(\w+\.\w+(?:\.\w+)?)\.(?:receiver|targets)\b", text))

    assert [text.count(one) for one in "{[("] == [text.count(one) for one in "}])"]
    assert used <= declared
    assert all(re.search(rf'"?{label}"? *=', text) for label in STREAM_LABELS)


@pytest.mark.parametrize("name", ["alloy.alloy", "vector.yaml", "otel-collector.yaml", "../logrotate"])
def test_one_log_file_is_meant(name: str) -> None:
    """All name the file that the others name."""
    text = (MONITORING / name).read_text()

    assert 'file = "/var/log/hubsync/hubsync.jsonl"' in text


def test_each_file_is_known_to_these_tests() -> None:
    """Nothing is added here that nobody checks."""
    configs = {"alloy.alloy", "grafana-dashboard.json", "journald.alloy", "loki-rules.yaml", "otel-collector.yaml"}

    assert configs | {"events.md", "vector.yaml"} == {path.name for path in Path(MONITORING).iterdir()}
