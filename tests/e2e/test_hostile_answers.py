"""What a Hub answers, and what a file is called, is data: it reaches neither a terminal nor a file as it is."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from click.testing import CliRunner
from support.plain_server import AnswerError, PlainServer, Request
from support.running import endpoint, hubsync, write_checkpoint, write_config

from hubsync.cli import cli
from hubsync.config.load import load_config
from hubsync.localhub import LocalHub
from hubsync.monitor.events import CATALOGUE

EVIL = "\x1b]0;owned\x07\x1b[2J\x1b[31mred\r\nERROR forged.event path=x\u202e\u2028\x9b31m"
LONG = "A" * 3_000_000
REFUSED = {  # by a repository's name: where, and how
    "refs": ("/info/refs", 403),
    "batch": ("/info/lfs/objects/batch", 422),
    "quota": ("/info/lfs/objects/batch", 403),
    "push": ("/git-receive-pack", 500),
    "api": ("/api/", 403),
}


def refuse(request: Request) -> None:
    """Refuse in the way of the protocol, with evil words in every place that a person could be shown."""
    name = next((name for name in REFUSED if f"/evil/{name}" in request.path), None)
    if name is None or REFUSED[name][0] not in request.path:
        return
    said = EVIL + LONG
    body = json.dumps({"message": said, "error": said, "errors": [{"message": said}], "request_id": said}).encode()
    kind = "application/vnd.git-lfs+json" if "/info/lfs/" in request.path else "application/json"
    raise AnswerError(REFUSED[name][1], body, Content_Type=kind, X_Error_Message="\x1b[31m" + "E" * 2000,
                      X_Error_Code="\x1b[2J", X_Request_Id="\x1b]0;x\x07")  # fmt: skip


def expect_harmless(*texts: str) -> None:
    """Expect nothing raw, no line that the words made, no flood and no traceback in what was printed."""
    for printed in texts:
        assert set() == set(printed) & set("\x1b\x07\x9b\u202e\u2028\r"), printed[:2000]
        assert len(printed) < 200_000
        assert [] == [line for line in printed.splitlines() if line.startswith(("ERROR forged", "Traceback"))]


def test_words_of_a_hub_disturb_no_terminal_and_fill_no_log(tmp_path: Path, source: Path, plain: PlainServer) -> None:
    """Control characters are escaped, lines stay lines, and megabytes are cut: in the log, the status and the state."""
    for name in REFUSED:
        plain.create(f"evil/{name}")
    plain.before = refuse
    write_checkpoint(source / "checkpoint-1")
    repos = ", ".join(f'"m0:evil/{name}"' for name in REFUSED)
    config = write_config(tmp_path / "hubsync.toml", source, {f'url = "{plain.url}"': "evil/x"})
    text = config.read_text().replace('"m0:evil/x"', repos).replace('format = "json"', 'format = "console"')
    config.write_text(text.replace("[log]", f'[log]\nlevel = "debug"\nfile = "{tmp_path}/hubsync.jsonl"'))

    done = hubsync(config, "once", "--timeout", "5s")
    status = hubsync(config, "status")

    said = [json.loads(line) for line in (tmp_path / "hubsync.jsonl").read_text().splitlines()]
    failed = {entry["mirror"] for entry in said if entry["event"] in {"mirror.failed", "mirror.parked"}}
    rejected = {entry["mirror"] for entry in said if entry["event"] == "file.rejected"}
    mirrors = {mirror.name for mirror in load_config(config, {}).targets[0].mirrors}
    assert mirrors - {"m0:evil/api", "m0:evil/batch"} <= failed
    assert {"m0:evil/batch"} <= rejected  # a 422 is about objects
    assert {entry["event"] for entry in said} <= CATALOGUE.keys()
    expect_harmless(done.stdout, done.stderr, status.stdout, status.stderr)
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()] + [tmp_path / "hubsync.jsonl"]
    assert [] == [path for path in files if b"\x1b" in path.read_bytes() and "owned" in path.read_text("latin-1")]
    own = [path for path in files if path.name != "reserve" and "lfs/objects" not in str(path)]
    assert 2_000_000 > sum(path.stat().st_size for path in own)


@pytest.fixture
def log_as_it_was() -> Iterator[None]:
    """Commands that run in this process set up the log; set it back."""
    before = structlog.get_config()
    yield
    structlog.configure(**before)


@pytest.mark.usefixtures("log_as_it_was")
def test_names_in_a_source_disturb_no_terminal(tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """Of files, of units, of what is asked for and not there; and words in a config that a card repeats."""
    evil = EVIL.replace("/", "")
    unit = f"checkpoint-1{evil}"
    write_checkpoint(source / unit)
    (source / "config.json").write_text(json.dumps({"model_type": EVIL, "architectures": [EVIL], "_name_or_path": EVIL}))
    (source / f"{evil}.txt").write_text("x")
    (source / f"{evil}.env").write_text("secret by its name")
    (source / f"{evil}.json").write_text("{")
    (source / f"link{evil}").symlink_to("/etc/passwd")
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"}, card="{ enabled = true }")
    config.write_text(config.read_text().replace('format = "json"', f'format = "console"\nfile = "{tmp_path}/log.jsonl"'))
    paths = [str(path) for path in (*source.iterdir(), source / f"none{evil}")]

    def run(*argv: str) -> str:
        result = CliRunner().invoke(cli, ["-c", str(config), *argv], obj=dict(os.environ))
        return f"{result.stdout}{result.stderr}"

    before = run("plan")
    once = hubsync(config, "once", "--timeout", "30s")
    after = [
        run(*command)
        for command in (
            ["status"], ["safe", *paths], ["report"], ["log"], ["verify", "run"], ["history", "run"], ["check", "--online"],
            ["card", "run", "--preview"], ["wait", "run", "--unit", unit, "--timeout", "1s"], ["flush", evil],
            ["wait", "run", "--unit", f"none{evil}", "--timeout", "1s"], *(["explain", path] for path in paths),
            ["restore", "run", str(tmp_path / f"out{evil}"), "--unit", unit],
            ["restore", "run", str(tmp_path / "not"), "--unit", f"none{evil}"],
        )
    ]  # fmt: skip

    assert "forged" in before
    assert (tmp_path / f"out{evil}" / "trainer_state.json").exists()
    expect_harmless(before, once.stdout, once.stderr, *after)
