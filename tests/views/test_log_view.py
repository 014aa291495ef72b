import io
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hubsync.cli import cli
from hubsync.monitor.lines import encode_json
from hubsync.views.log import Place, Printer, show_log
from hubsync.views.query import Query

CONFIG = """
[[target]]
name = "sft"
source = "{here}/source"
mirrors = ["acme/sft"]

[service]
state_dir = "{here}/state"
"""


def entry(event: str = "heartbeat", hour: int = 12, **fields: Any) -> dict[str, Any]:
    head = {"timestamp": f"2026-11-23T{hour:02d}:00:00Z", "level": "info", "event": event, "message": f"it was {event}"}
    return {**head, **fields}


def lines(*entries: dict[str, Any]) -> str:
    return "".join(encode_json(one) + "\n" for one in entries)


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """Give a log with a rotated part."""
    (tmp_path / "log.jsonl.1").write_text(lines(entry("daemon.started", 1), entry("watch.started", 2, target="sft")))
    path = tmp_path / "log.jsonl"
    failed = entry("mirror.failed", 3, target="sft", mirror="onprem", level="warning", hint="wait\x1b[31m")
    path.write_text(lines(failed, entry("heartbeat", 4, target="rl")))
    return path


def run(*args: str, environment: dict[str, str] | None = None) -> Result:
    result = CliRunner().invoke(cli, args, obj=environment or {"HOME": "/nonexistent"})
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result


def test_the_log_of_the_config_is_shown_for_a_person(tmp_path: Path, log: Path) -> None:
    """Sentences under their day, rotated parts first, without heartbeats, and nothing that disturbs a terminal."""
    config = tmp_path / "hubsync.toml"
    config.write_text(CONFIG.format(here=tmp_path) + f'[log]\nfile = "{log}"\n')
    shown = run("log", "-c", str(config)).stdout.splitlines()

    assert shown[0].startswith("--- ")
    assert ["daemon.started", "watch.started", "mirror.failed"] == [
        line.split("it was ")[1].split()[0] for line in shown if "it was" in line
    ]
    assert "\x1b" not in "".join(shown)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--target", "sft"], ["watch.started", "mirror.failed"]),
        (["--mirror", "onprem"], ["mirror.failed"]),
        (["--event", "!heartbeat", "--event", "!daemon.*"], ["watch.started", "mirror.failed"]),
        (["--level", "warning"], ["mirror.failed"]),
        (["--since", "2026-11-23T02:00:00Z", "--until", "2026-11-23T03:00:00Z"], ["watch.started", "mirror.failed"]),
        (["-n", "1"], ["heartbeat"]),
        (["-n", "1", "-t", "sft"], ["mirror.failed"]),
    ],
)
def test_only_what_is_asked_for_is_shown(log: Path, options: list[str], expected: list[str]) -> None:
    """Conditions add up, and JSON comes out as it went in."""
    result = run("log", "--file", str(log), "--json", *options)

    assert 0 == result.exit_code
    assert expected == [json.loads(line)["event"] for line in result.stdout.splitlines()]


def test_nothing_found_is_an_answer_of_its_own(log: Path) -> None:
    """The exit code tells a script whether there was something."""
    result = run("log", "--file", str(log), "--level", "error")

    assert (1, "") == (result.exit_code, result.stdout)


def test_a_wrong_time_ends_with_what_can_be_written(log: Path) -> None:
    """The command line's own error: exit code 2, with examples."""
    result = run("log", "--file", str(log), "--since", "soon")

    assert 2 == result.exit_code
    assert "yesterday" in result.stderr


def test_following_begins_where_the_past_ends(log: Path) -> None:
    """What is logged while the past is printed is shown once, after it."""
    out = io.StringIO()

    class Stop(Exception):  # noqa: N818 - the reader's Ctrl-C
        pass

    class Stream:
        def write(self, text: str) -> None:
            out.write(text)
            if '"heartbeat"' in text:
                with log.open("a") as file:
                    file.write(lines(entry("mirror.recovered", 5), entry("daemon.stopped", 6)))
            if "daemon.stopped" in text:
                raise Stop

    with pytest.raises(Stop):
        show_log(Place(log), Query(), Printer(Stream(), as_json=True, colour=False), follow=True)  # type: ignore[arg-type]

    names = [json.loads(line)["event"] for line in out.getvalue().splitlines()]
    assert ["heartbeat", "mirror.recovered", "daemon.stopped"] == names[-3:]
    assert len(names) == len(set(names))
