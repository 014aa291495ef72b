"""The commands as a user meets them: what they print, where, and what they exit with."""

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import HfApi
from support.running import PATIENCE_S, ROOT, Daemon, endpoint, hubsync, write_checkpoint, write_config

from hubsync.cli import cli
from hubsync.localhub import LocalHub

NOWHERE = 'url = "http://127.0.0.1:9"'  # the discard port: refused at once


@pytest.fixture
def config(tmp_path: Path, source: Path) -> Path:
    """Give a valid config whose Hub cannot be reached."""
    return write_config(tmp_path / "hubsync.toml", source, {NOWHERE: "acme/x"})


@pytest.fixture
def online(tmp_path: Path, source: Path, hub: LocalHub) -> Path:
    """Give a valid config with a Hub."""
    return write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})


def run(*args: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """Run hubsync without a config."""
    argv = [sys.executable, "-m", "hubsync", *args]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False, **options)


def edit(config: Path, old: str, new: str) -> None:
    text = config.read_text()
    assert old in text
    config.write_text(text.replace(old, new))


def document(done: subprocess.CompletedProcess[str], returncode: int = 0) -> dict[str, Any]:
    """Return the one JSON document that a command printed; its log went elsewhere."""
    assert returncode == done.returncode, done.stderr
    printed: dict[str, Any] = json.loads(done.stdout)
    assert 1 == printed["schema_version"]
    return printed


# --- without anything


def test_help_says_what_each_exit_code_means() -> None:
    """The help lists all commands and all exit codes; so does no command at all."""
    said = run("--help").stdout

    assert all(word in said for word in ("run", "once", "plan", "status", "flush", "check", "69", "73", "75", "77", "78"))
    assert "Usage" in run().stderr


@pytest.mark.parametrize("args", [["onse"], ["once", "--quick"], ["plan", "--timeout", "1s"], ["status", "a", "b"]])
def test_a_wrong_command_line_is_2(args: list[str]) -> None:
    """What does not exist is said, with the usage, and exits with 2."""
    done = run(*args)

    assert (2, "") == (done.returncode, done.stdout)
    assert "Usage" in done.stderr


def test_schema_and_events_are_for_machines() -> None:
    """The schema is JSON Schema, the event list a versioned document: each has a name, a level, fields and a meaning."""
    schema = json.loads(run("schema").stdout)
    events = document(run("events", "--json"))["events"]

    assert {"target", "endpoint", "service", "log"} < schema["properties"].keys()
    assert {"daemon.ready", "mirror.published", "heartbeat"} < {event["name"] for event in events}
    assert all(event["meaning"] and event["level"] for event in events)
    assert "mirror.published" in run("events").stdout


def test_what_hubsync_advises_exists() -> None:
    """Each command that a hint, an event or the README names is one of those that the help lists."""
    texts = [path.read_text() for path in [ROOT / "README.md", *(ROOT / "hubsync").rglob("*.py")]]
    advised = {word for text in texts for word in re.findall(r"(?:`|it: |run: )hubsync ([a-z][a-z-]*)", text)}

    assert {"flush", "run", "check"} < advised
    assert set() == advised - cli.commands.keys()


@pytest.mark.parametrize("directory", ["", "plain", "a b", "it's", 'a "b" *'])
def test_make_demo_takes_any_directory(directory: str) -> None:
    """DIR reaches the demo as one argument, whatever characters are in it; without it there is none."""
    argv = ["make", "-s", "-C", str(ROOT), "-o", "setup", "demo", "PY=printf '<%s>'", f"DIR={directory}"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)

    assert "<-m><hubsync><demo>" + (f"<{directory}>" if directory else "") == done.stdout


# --- the config


def test_init_writes_a_config_that_check_accepts(tmp_path: Path) -> None:
    """The file that init writes is valid once its source exists; a second init does not touch it."""
    first = run("init", cwd=tmp_path)
    path = tmp_path / "hubsync.toml"
    before = path.read_bytes()
    again = run("init", cwd=tmp_path)

    assert (0, 73) == (first.returncode, again.returncode)
    assert "exists already" in again.stderr
    assert before == path.read_bytes()
    edit(path, "/data/runs/llama-sft", str(tmp_path))
    checked = document(run("check", "--json", cwd=tmp_path))
    assert (True, str(path)) == (checked["ok"], checked["config"])
    assert ["llama-sft"] == [target["name"] for target in tomllib.loads(path.read_text())["target"]]


def test_all_mistakes_are_shown_at_once_with_their_places(config: Path) -> None:
    """Five mistakes give five lines with file, line and column, and exit code 78, from every command that reads it."""
    text = config.read_text()
    for old, new in (
        ('quiet = "300ms"', "quiet = 300"),
        ('schedule = "1s"', 'schedul = "1s"'),
        ('heartbeat = "1s"', 'heartbeat = "one"'),
        ('min_free = "1MB"', 'min_free = "-1MB"'),
        ("m0:acme/x", "elsewhere:acme/x"),
    ):
        assert old in text
        text = text.replace(old, new)
    config.write_text(text)

    for command in ("check", "once", "run"):
        done = hubsync(config, command)
        assert (78, "") == (done.returncode, done.stdout)
        places = [line for line in done.stderr.splitlines() if line.startswith(f"{config}:")]
        assert 5 == len(places), done.stderr
        assert all(line.split(":")[1].isdigit() and line.split(":")[2].isdigit() for line in places)


@pytest.mark.parametrize(
    ("text", "said"),
    [("[[target", "hubsync.toml:1:"), ("", "declares no target"), (b"\xff\xfe", "hubsync.toml")],
    ids=["no TOML", "empty", "no UTF-8"],
)
def test_a_file_that_is_no_config_is_78(config: Path, text: str | bytes, said: str) -> None:
    """Whatever is in the file, there is a sentence and no traceback."""
    config.write_bytes(text if isinstance(text, bytes) else text.encode())

    done = hubsync(config, "check")

    assert 78 == done.returncode
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_the_config_is_searched_for_where_it_is_documented(tmp_path: Path, config: Path) -> None:
    """$HUBSYNC_CONFIG, the working directory, then the home; without any, the places are named."""
    home = tmp_path / "home"
    (home / ".config" / "hubsync").mkdir(parents=True)
    (home / ".config" / "hubsync" / "hubsync.toml").write_text(config.read_text())
    environment = {name: value for name, value in os.environ.items() if name != "HUBSYNC_CONFIG"} | {"HOME": str(home)}

    named = run("check", cwd=home, env={**environment, "HUBSYNC_CONFIG": str(config)})
    here = run("check", cwd=tmp_path, env=environment)
    at_home = run("check", cwd="/", env=environment)
    nowhere = run("check", cwd="/", env={**environment, "HOME": str(tmp_path / "nobody")})

    assert [0, 0, 0, 78] == [done.returncode for done in (named, here, at_home, nowhere)]
    assert str(config) in named.stdout
    assert str(home) in at_home.stdout
    assert "hubsync init" in nowhere.stderr or "/etc/hubsync/hubsync.toml" in nowhere.stderr


def test_an_unknown_log_level_is_2(config: Path) -> None:
    """A misspelt level is refused with the levels there are."""
    done = hubsync(config, "once", HUBSYNC_LOG_LEVEL="loud")

    assert 2 == done.returncode
    assert "debug" in done.stderr


def test_machines_get_one_document_of_mistakes_too(config: Path) -> None:
    """With --json each mistake is an object with its file, line, column and key; the same lines stand on stderr."""
    assert "usage" == document(hubsync(config, "once", "--json", "nobody"), 2)["error_kind"]
    edit(config, 'quiet = "300ms"', "quiet = 300")
    edit(config, "[service]", "[servise]")

    for command in ("check", "once", "plan", "status"):
        done = hubsync(config, command, "--json")
        printed = document(done, 78)
        assert (False, "config") == (printed["ok"], printed["error_kind"])
        assert ["servise", "target[0].quiet"] == [problem["key"] for problem in printed["problems"]]
        assert all(problem["line"] and problem["column"] and problem["message"] for problem in printed["problems"])
        assert {str(config)} == {problem["file"] for problem in printed["problems"]}
        assert 2 == done.stderr.count(f"{config}:")
    nowhere = document(run("check", "--json", "-c", "/nonexistent.toml"), 78)
    assert "cannot be read" in nowhere["problems"][0]["message"]


# --- check --online


def test_check_online_finds_all_well(online: Path, source: Path, hub: LocalHub) -> None:
    """A missing repository is reported as one that would be made, and is not made; an existing one with its head."""
    (source / "a.txt").write_text("a")

    before = document(hubsync(online, "check", "--online", "--json"))
    repos = list(HfApi(endpoint=hub.url, token=hub.token).list_models())
    assert 0 == hubsync(online, "once").returncode
    after = document(hubsync(online, "check", "--online", "--json"))

    said = [{finding["what"]: finding["said"] for finding in one["findings"]} for one in (before, after)]
    assert "would be created private" in said[0]["run → m0:acme/x"]
    assert [] == repos
    assert "branch main at" in said[1]["run → m0:acme/x"]
    assert {"git", "git-lfs", "state", "run: source", "run: pins"} < said[0].keys()


def test_check_online_tells_what_fails(online: Path, tmp_path: Path, hub: LocalHub, source: Path) -> None:
    """A bad token is 77, a Hub that is not there 69, both together 1; every finding carries a hint."""
    (tmp_path / "bad").write_text("hf_wrongwrongwrongwrong")
    good = online.read_text()
    edit(online, f"{hub.directory}/token", f"{tmp_path}/bad")
    bad_token = hubsync(online, "check", "--online")
    both = write_config(tmp_path / "both.toml", source, {f'url = "{hub.url}"\ntoken = {{ file = "{tmp_path}/bad" }}': "a/x",
                                                         NOWHERE: "a/x"})  # fmt: skip
    mixed = hubsync(both, "check", "--online")
    online.write_text(good.replace(hub.url, "http://127.0.0.1:9"))
    unreachable = hubsync(online, "check", "--online")

    assert [77, 1, 69] == [done.returncode for done in (bad_token, mixed, unreachable)]
    assert all("FAIL" in done.stdout and "→" in done.stdout for done in (bad_token, mixed, unreachable))
    assert "hf_wrong" not in bad_token.stdout + bad_token.stderr


def test_check_online_tells_of_a_missing_source(online: Path, source: Path) -> None:
    """A source that is not there fails its own finding; the mirrors are looked at all the same."""
    source.rmdir()

    findings = document(hubsync(online, "check", "--online", "--json"), 1)["findings"]

    assert ["run: source"] == [finding["what"] for finding in findings if finding["error_kind"]]
    assert "run → m0:acme/x" in {finding["what"] for finding in findings}


# --- once


def test_once_prints_one_document(online: Path, source: Path) -> None:
    """What was committed, what was held and why, and what failed, for each target."""
    (source / "a.txt").write_text("a")
    (source / "broken.json").write_text("{")

    printed = document(hubsync(online, "once", "--json"), 1)["targets"][0]

    assert ("run", 1, {}) == (printed["target"], len(printed["commits"]), printed["failed"])
    assert ["broken.json"] == list(printed["held"])


def test_once_says_why_a_mirror_failed(config: Path, source: Path) -> None:
    """An unreachable Hub is 69, with the kind and the hint; the commit is made and waits."""
    (source / "a.txt").write_text("a")

    printed = document(hubsync(config, "once", "--json", "--timeout", "1s"), 69)["targets"][0]

    assert "network" == printed["failed"]["m0:acme/x"]["error_kind"]
    assert printed["failed"]["m0:acme/x"]["hint"]
    assert 1 == len(printed["commits"])


def test_names_that_are_not_text_break_no_output(online: Path, source: Path) -> None:
    """A name that is not UTF-8 is held with its reason, for people as for machines, in any locale; others are published."""
    (source / "fine.txt").write_text("a")
    (source / os.fsdecode(b"latin-\xe9.txt")).write_text("b")
    (source / "new\nline\x1b[31m.txt").write_text("c")

    strict = {"PYTHONIOENCODING": "utf-8:strict"}  # as in most locales
    planned = [hubsync(online, "plan", **strict), hubsync(online, "plan", "--json", **strict)]
    done = [hubsync(online, "once", **strict), hubsync(online, "once", "--json")]

    assert [0, 0] == [one.returncode for one in planned]
    assert [1, 1] == [one.returncode for one in done]
    assert all("Traceback" not in one.stderr for one in planned + done)
    assert all("latin-\\xe9.txt" in one.stdout or "latin-\\udce9.txt" in one.stdout for one in planned + done)
    assert all("\x1b" not in one.stdout for one in planned + done)


def test_a_target_that_is_named_twice_is_done_once(online: Path, source: Path) -> None:
    """Naming a target twice is naming it; an unknown one is 2 with the nearest name."""
    (source / "a.txt").write_text("a")

    twice = document(hubsync(online, "once", "run", "run", "--json"))
    unknown = hubsync(online, "once", "runn")

    assert ["run"] == [target["target"] for target in twice["targets"]]
    assert 2 == unknown.returncode
    assert "run" in unknown.stderr


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_once_can_be_interrupted(online: Path, source: Path, number: signal.Signals) -> None:
    """Ctrl-C while it waits for a file to become quiet ends it at once with 130, and without a traceback."""
    edit(online, 'quiet = "300ms"', 'quiet = "5m"')
    (source / "a.txt").write_text("a")
    argv = [sys.executable, "-m", "hubsync", "once", "-c", str(online)]
    with subprocess.Popen(argv, cwd=ROOT, env={**os.environ, "HUBSYNC_LOG_LEVEL": "debug"}, stderr=subprocess.PIPE,
                          stdout=subprocess.PIPE, text=True) as process:  # fmt: skip
        assert process.stderr is not None
        assert any("inventory.taken" in line for line in process.stderr)
        process.send_signal(number)
        _, said = process.communicate(timeout=PATIENCE_S)

    assert 130 == process.returncode
    assert "Traceback" not in said


@pytest.mark.parametrize("command", ["run", "once"])
def test_a_state_that_cannot_be_written_is_73(config: Path, tmp_path: Path, command: str) -> None:
    """A state directory below a file cannot be made; the hint names the setting."""
    (tmp_path / "file").touch()
    edit(config, f"{tmp_path}/state", f"{tmp_path}/file/state")

    done = hubsync(config, command)

    assert 73 == done.returncode
    assert "service.state_dir" in done.stderr


@pytest.mark.parametrize("place", ["state", "state/targets/run", "store/run/back", "link/back"])
def test_nothing_is_restored_into_the_state(config: Path, tmp_path: Path, place: str) -> None:
    """Not below a store of its own either, nor by way of a link; nothing is made there."""
    (tmp_path / "link").symlink_to("state")
    edit(config, "quiet =", f'store_dir = "{tmp_path}/store"\nquiet =')

    done = hubsync(config, "restore", "run", str(tmp_path / place))

    assert 2 == done.returncode
    assert "where hubsync keeps its state" in done.stderr
    assert not (tmp_path / "state").exists()
    assert not (tmp_path / "store").exists()


def test_a_missing_source_fails_its_target_only(online: Path, tmp_path: Path, source: Path) -> None:
    """One target's source is away: it is said, exit code 1; the other target is published."""
    (source / "a.txt").write_text("a")
    online.write_text(f'{online.read_text()}\n[[target]]\nname = "away"\nsource = "{tmp_path}/away"\nquiet = "300ms"\n'
                      'mirrors = ["m0:acme/y"]\n')  # fmt: skip

    away, run_ = (document(hubsync(online, "once", name, "--json"), code) for name, code in (("away", 1), ("run", 0)))
    both = hubsync(online, "once")

    assert "source" == away["targets"][0]["failed"]["source"]["error_kind"]
    assert {} == run_["targets"][0]["failed"]
    assert 1 == both.returncode
    assert "run: everything is published" in both.stdout


# --- plan


def test_a_plan_names_reasons_and_changes_nothing(online: Path, tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """Each path has an action, a route and a reason, before the first run and after; nothing is written, nothing asked."""
    write_checkpoint(source / "checkpoint-1")
    (source / "notes.txt").write_text("notes")
    first = document(hubsync(online, "plan", "--json"))["targets"][0]
    assert not (tmp_path / "state").exists()
    assert 0 == hubsync(online, "once").returncode
    (source / "notes.txt").write_text("changed")
    (source / "checkpoint-1" / "config.json").unlink()
    (source / "pipe").mkdir()
    os.mkfifo(source / "pipe" / "fifo")
    hub.forget_requests()
    before = contents(tmp_path / "state")

    second = document(hubsync(online, "plan", "--json"))["targets"][0]

    assert before == contents(tmp_path / "state")
    assert () == hub.requests
    assert 6 == len(first["steps"])
    assert all(step["reason"] for step in first["steps"] + second["steps"])
    assert {"checkpoint-1"} == {step["unit"] for step in first["steps"]} - {None}
    assert {"notes.txt": "capture", "checkpoint-1/config.json": "leave"}.items() <= {
        step["path"]: step["action"] for step in second["steps"]
    }.items()  # fmt: skip
    assert 4 == second["unchanged"]


def contents(directory: Path) -> dict[str, tuple[int, str]]:
    """Return what is in a directory: time of change and digest of each path."""
    return {
        str(path): (path.lstat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "")
        for path in directory.rglob("*")
    }


def test_a_plan_on_a_terminal_is_short(config: Path, source: Path) -> None:
    """Only the first steps of a large plan are listed, with a word on the rest."""
    for number in range(60):
        (source / f"{number}.json").write_text("{}")

    done = hubsync(config, "plan")

    assert 0 == done.returncode
    assert "60 files to publish" in done.stdout
    assert "20 more" in done.stdout


# --- status, and commands for a daemon


def test_status_tells_how_the_daemon_is(online: Path, source: Path) -> None:
    """3 before the first start, 0 while all is well, 1 with a halted target, 3 after the end; the document stays."""
    edit(online, "quiet =", 'inventory_every = "1s"\nquiet =')
    never = hubsync(online, "status")
    (source / "a.txt").write_text("a")
    with Daemon(online) as daemon:
        daemon.wait_for("mirror.published")
        well = document(hubsync(online, "status", "--json"))
        shown = hubsync(online, "status", COLUMNS="80")
        unknown = hubsync(online, "status", "runn")
        source.rename(source.parent / "away")
        daemon.wait_for("target.halted")
        while '"halted"' not in (source.parent / "state" / "status.json").read_text():
            daemon.wait_for("heartbeat")
        halted = document(hubsync(online, "status", "--json"), 1)
        assert 0 == daemon.stop()
    after = document(hubsync(online, "status", "--json"), 3)

    assert (3, 2) == (never.returncode, unknown.returncode)
    assert "hubsync run" in never.stderr
    assert ("run", "ok") == (well["targets"][0]["name"], well["targets"][0]["state"])
    assert 0 == shown.returncode
    assert max(map(len, shown.stdout.splitlines())) <= 80
    assert "halted" == halted["targets"][0]["state"]
    assert "stopped" == after["daemon"]["state"]


@pytest.mark.parametrize("content", [None, b"", b"{", b'{"daemon": {}}', b"\xff"])
def test_a_status_that_cannot_be_read_is_one_document(config: Path, tmp_path: Path, content: bytes | None) -> None:
    """Missing or damaged, and no daemon runs: 3, one document, one sentence that says what to do, no parser's words."""
    (tmp_path / "state").mkdir()
    if content is not None:
        (tmp_path / "state" / "status.json").write_bytes(content)

    done = hubsync(config, "status", "--json")

    printed = document(done, 3)
    assert ("not_running", False) == (printed["error_kind"], printed["ok"])
    assert printed["problems"] == [{"message": printed["error"]}]
    assert "hubsync run" in printed["hint"]
    said = done.stdout + done.stderr
    assert [] == [word for word in ("pydantic", "validation", "Traceback", "Field", "JSON") if word in said]


@pytest.mark.parametrize("command", ["flush", "pause", "resume", "reload"])
def test_commands_for_a_daemon_need_one(config: Path, command: str) -> None:
    """Without a daemon they exit with 3 and say how to start one."""
    done = hubsync(config, command)

    assert 3 == done.returncode
    assert "hubsync run" in done.stderr
