"""What is told beside the log: metrics, a call while all is well, commands that are run for events."""

import json
import re
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest
import structlog
from msgspec.structs import replace
from support.running import Daemon, endpoint, write_checkpoint, write_config

from hubsync.config.reports import EventCommand, Monitor
from hubsync.localhub import LocalHub
from hubsync.monitor.log import configure_logging
from hubsync.monitor.metrics import draw_metrics
from hubsync.monitor.status import DaemonStatus, MirrorStatus, Status, TargetStatus
from hubsync.outputs import CommandRunner, OutputError, Outputs, is_in_time, make_environment, match_events

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
FIRST = MirrorStatus("acme/x", "acme/x", behind_s=90.5, backlog_files=3, backlog_bytes=10**15 + 1, last_success=NOW)
SECOND = MirrorStatus('on"prem\\', "team/x", state="parked", required=False, behind_s=9000)
TARGET = TargetStatus("sft", "/data", state="degraded", at_risk_s=60, held=2, mirrors=(FIRST, SECOND))
STATUS = Status(DaemonStatus(1, "1.0", NOW - timedelta(hours=1), NOW), (TARGET,))
# https://prometheus.io/docs/instrumenting/exposition_formats/
LABEL = r'[a-z_]+="(?:[^"\\\n]|\\["\\n])*"'
SAMPLE = re.compile(rf"[a-z_]+(\{{{LABEL}(?:,{LABEL})*\}})? -?\d+(\.\d+)?(e[+-]\d+)?")

Listener = tuple[str, list[str]]


@pytest.fixture
def listener() -> Iterator[Listener]:
    """Give the address of a server that answers 200, or 500 below /broken, and the paths that it was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(500 if self.path.startswith("/broken") else 200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


def command(program: Path, script: str, events: tuple[str, ...] = ("mirror.*",), timeout_s: float = 20.0) -> EventCommand:
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    return EventCommand(events=events, command=(str(program),), timeout_s=timeout_s)


def run_for(one: EventCommand, *entries: dict[str, object]) -> list[dict[str, Any]]:
    """Run the command for *entries* and return what was logged of it."""
    with structlog.testing.capture_logs() as logged:
        runner = CommandRunner(one)
        for entry in entries:
            runner.take(json.dumps(entry))
        runner.start()
        runner.stop()
        runner.join()

    return [dict(entry) for entry in logged]


# --- metrics


def test_metrics_are_in_prometheus_own_format() -> None:
    """Each line is a sample or a comment, each metric is introduced once, and the file ends with a line's end."""
    lines = draw_metrics(STATUS).splitlines()
    samples = [line for line in lines if not line.startswith("#")]
    introduced = [line.split()[2] for line in lines if line.startswith("# TYPE")]

    assert [] == [line for line in samples if SAMPLE.fullmatch(line) is None]
    assert len(introduced) == len(set(introduced))
    assert set(introduced) == {re.split("[{ ]", line)[0] for line in samples}


def test_metrics_have_the_figures_of_the_status() -> None:
    """Behind, at risk, backlog to the byte, and states as 0 and 1; a name with quotes in it stays one label."""
    lines = draw_metrics(STATUS).splitlines()

    assert 'hubsync_mirror_behind_seconds{target="sft",mirror="acme/x",required="true"} 90.5' in lines
    assert 'hubsync_mirror_backlog_bytes{target="sft",mirror="acme/x",required="true"} 1e+15' not in lines
    assert 'hubsync_mirror_backlog_bytes{target="sft",mirror="acme/x",required="true"} 1000000000000001.0' in lines
    assert 'hubsync_target_at_risk_seconds{target="sft"} 60.0' in lines
    assert r'hubsync_mirror_state{target="sft",mirror="on\"prem\\",required="false",state="parked"} 1.0' in lines
    assert 'hubsync_target_state{target="sft",state="halted"} 0.0' in lines


def test_the_metrics_file_is_replaced_and_readable_for_others(tmp_path: Path) -> None:
    """node_exporter runs as another user, and must never see half a file."""
    outputs = Outputs()
    path = tmp_path / "hubsync.prom"
    path.write_text("former")
    before = path.stat().st_ino
    outputs.use(Monitor(metrics_file=path))
    outputs.write_metrics(STATUS)

    assert before != path.stat().st_ino
    assert 0o644 == path.stat().st_mode & 0o777
    assert draw_metrics(STATUS) == path.read_text()
    assert [path] == list(tmp_path.iterdir())


# --- the heartbeat's URL


@pytest.mark.parametrize(
    ("expected", "target"),
    [
        (True, TARGET),
        (True, replace(TARGET, mirrors=())),
        (False, replace(TARGET, state="halted")),
        (False, replace(TARGET, mirrors=(replace(FIRST, behind_s=3601), SECOND))),
        (False, replace(TARGET, mirrors=(FIRST, replace(SECOND, required=True)))),
    ],
    ids=["an optional mirror is late", "no mirror", "halted", "late", "the late one is required"],
)
def test_all_is_in_time_or_not(target: TargetStatus, expected: bool) -> None:  # noqa: FBT001 - a value of the table
    """Only required mirrors count, and a halted target is never in time."""
    assert expected == is_in_time(replace(STATUS, targets=(target,)), 3600)


def test_the_url_is_called_only_while_all_is_in_time(listener: Listener) -> None:
    """Who watches it alerts on silence."""
    url, asked = listener
    outputs = Outputs()
    outputs.use(Monitor(heartbeat_url=f"{url}/ping/abcdef", in_time_s=3600))
    outputs.call(STATUS)
    outputs.call(replace(STATUS, targets=(replace(TARGET, state="halted"),)))

    assert ["/ping/abcdef"] == asked


@pytest.mark.parametrize("path", ["/broken/abcdef", None], ids=["refused", "nobody there"])
def test_a_call_that_fails_does_not_tell_the_url(listener: Listener, path: str | None) -> None:
    """The URL is a secret: who knows it can feign health."""
    outputs = Outputs()
    outputs.use(Monitor(heartbeat_url=f"{listener[0]}{path}" if path else "http://127.0.0.1:9/secret-path"))
    with pytest.raises(OutputError) as failure:
        outputs.call(STATUS)

    assert failure.value.retryable
    assert "abcdef" not in str(failure.value)
    assert "secret-path" not in str(failure.value)


# --- commands


def test_a_command_gets_the_entry(tmp_path: Path) -> None:
    """As JSON on its standard input, and the main fields as variables; what may hurt a terminal is escaped."""
    entry = {"event": "mirror.parked", "level": "error", "target": "sft", "message": "no\x1b[2J", "files": 3}
    logged = run_for(command(tmp_path / "page", f"cat > {tmp_path}/got; env > {tmp_path}/env"), entry)
    variables = dict(line.split("=", 1) for line in (tmp_path / "env").read_text().splitlines())

    assert [] == logged
    assert entry == json.loads((tmp_path / "got").read_text())
    assert ("mirror.parked", "sft", r"no\x1b[2J") == tuple(
        variables[f"HUBSYNC_{name}"] for name in ("EVENT", "TARGET", "MESSAGE")
    )


def test_a_command_sees_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its environment is closed, whatever hubsync itself was started with."""
    monkeypatch.setenv("HF_TOKEN", "hf_notatokenatall")
    monkeypatch.setenv("LD_PRELOAD", "x")
    seen = make_environment({"event": "heartbeat", "target": None})

    assert {"HUBSYNC_EVENT"} == {name for name in seen if name not in {"PATH", "HOME", "LANG", "TZ"}}


def test_a_command_that_hangs_is_ended(tmp_path: Path) -> None:
    """With its children, whatever it prints meanwhile; the next event is told all the same."""
    script = f"echo x >> {tmp_path}/runs; (while :; do echo noise >&2; sleep 0.1; done) & wait"
    one = command(tmp_path / "page", script, timeout_s=0.5)
    logged = run_for(one, {"event": "mirror.parked"}, {"event": "mirror.parked"})

    assert "x\nx\n" == (tmp_path / "runs").read_text()
    assert [("command.failed", "stalled", 1), ("command.failed", "stalled", 2)] == [
        (entry["event"], entry["error_kind"], entry["failures"]) for entry in logged
    ]


def test_a_command_that_fails_is_said_rarely_and_so_is_its_recovery(tmp_path: Path) -> None:
    """Each doubling of its failures, with what it printed last, then that it works again."""
    script = f"[ -e {tmp_path}/well ] && exit 0; n=$(cat {tmp_path}/n 2>/dev/null || echo 0); echo $((n+1)) > {tmp_path}/n;"
    script += f" [ $n = 4 ] && touch {tmp_path}/well; echo 'pager: no route' >&2; exit 3"
    logged = run_for(command(tmp_path / "page", script), *[{"event": "mirror.parked"}] * 6)

    assert [("command.failed", 1), ("command.failed", 2), ("command.failed", 4), ("command.recovered", 5)] == [
        (entry["event"], entry["failures"]) for entry in logged
    ]
    assert "exit code 3 pager: no route" == logged[0]["error"]


def test_a_command_that_is_not_there_is_said(tmp_path: Path) -> None:
    """It ends nothing."""
    one = EventCommand(events=("heartbeat",), command=(str(tmp_path / "missing"),))
    (failed,) = run_for(one, {"event": "heartbeat"})

    assert ("command.failed", "No such file or directory") == (failed["event"], failed["error"])


def test_a_command_that_is_too_slow_loses_events_and_says_so(tmp_path: Path) -> None:
    """What waits is bounded, and nobody waits for it."""
    runner = CommandRunner(command(tmp_path / "page", "exit 0"))
    for _ in range(130):
        runner.take(json.dumps({"event": "mirror.failed"}))
    with structlog.testing.capture_logs() as logged:
        runner.start()
        time.sleep(0)
        while not logged:
            time.sleep(0.01)
        runner.stop()
        runner.join()

    assert ("busy", "it is too slow, 30 were left out") == (logged[0]["error_kind"], logged[0]["error"])


def test_events_are_named_by_patterns_and_never_lead_to_themselves() -> None:
    """A command for everything does not run because it failed."""
    assert {"target.halted", "target.paused", "target.resumed"} == match_events(["target.*"])
    assert "command.failed" not in match_events(["*"])


@pytest.mark.usefixtures("restored_logging")
def test_a_command_is_run_for_its_events_and_no_others(tmp_path: Path) -> None:
    """It hears of what is logged, redacted as the log is, also after logging was configured anew."""
    outputs = Outputs()
    monitor = Monitor(on_event=(command(tmp_path / "page", f"cat >> {tmp_path}/got; echo >> {tmp_path}/got"),))
    log = structlog.get_logger()
    with (tmp_path / "log").open("w") as stream:
        for _ in range(2):
            configure_logging(log_format="json", stream=stream, secrets=["hush-hush"])
            outputs.use(monitor)
            log.error("mirror.parked", mirror="acme/x", error="hush-hush")
            log.info("daemon.ready")
        outputs.stop(20)

    told = [json.loads(line) for line in (tmp_path / "got").read_text().splitlines()]
    assert [("mirror.parked", "[redacted]")] * 2 == [(entry["event"], entry["error"]) for entry in told]


def test_the_daemon_tells_all_three(tmp_path: Path, listener: Listener) -> None:
    """From the config: metrics and the call at each heartbeat, the command for its event, also for the very last one."""
    source = tmp_path / "run"
    write_checkpoint(source / "checkpoint-1", 1000)
    page = command(tmp_path / "page", f"echo $HUBSYNC_EVENT $HUBSYNC_UNIT >> {tmp_path}/got")
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
        monitor = f"""
[monitor]
metrics_file = "hubsync.prom"
heartbeat_url = "{listener[0]}/ping"
on_event = [{{ events = ["unit.published", "daemon.stopped"], command = ["{page.command[0]}"] }}]
"""
        config.write_text(config.read_text() + monitor)
        with Daemon(config) as daemon:
            daemon.wait_for("unit.published")
            daemon.wait_for("heartbeat", mirror="m0:acme/x", state="ok", behind_s=0.0)
            daemon.wait_for("heartbeat", mirror="m0:acme/x")
            daemon.wait_for("heartbeat", mirror="m0:acme/x")
            assert 0 == daemon.stop()

    assert "unit.published checkpoint-1\ndaemon.stopped\n" == (tmp_path / "got").read_text().replace(" \n", "\n")
    assert {"/ping"} == set(listener[1])
    assert (
        'hubsync_mirror_state{target="run",mirror="m0:acme/x",required="true",state="ok"} 1.0'
        in (tmp_path / "hubsync.prom").read_text()
    )
