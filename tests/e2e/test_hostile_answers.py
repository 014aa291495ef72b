"""What a Hub answers is data: it reaches neither a terminal nor a file as it is, and there is never much of it."""

import json
from pathlib import Path

import pytest
from support.plain_server import AnswerError, PlainServer, Request
from support.running import hubsync, write_checkpoint, write_config

from hubsync.config.load import load_config
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


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_words_of_a_hub_disturb_no_terminal_and_fill_no_log(
    tmp_path: Path, source: Path, plain: PlainServer, log_format: str
) -> None:
    """Control characters are escaped, lines stay lines, and megabytes are cut: in the log, the status and the state."""
    for name in REFUSED:
        plain.create(f"evil/{name}")
    plain.before = refuse
    write_checkpoint(source / "checkpoint-1")
    repos = ", ".join(f'"m0:evil/{name}"' for name in REFUSED)
    config = write_config(tmp_path / "hubsync.toml", source, {f'url = "{plain.url}"': "evil/x"})
    text = config.read_text().replace('"m0:evil/x"', repos).replace('format = "json"', f'format = "{log_format}"')
    config.write_text(text.replace("[log]", f'[log]\nlevel = "debug"\nfile = "{tmp_path}/hubsync.jsonl"'))

    done = hubsync(config, "once", "--timeout", "8s")
    status = hubsync(config, "status")

    said = [json.loads(line) for line in (tmp_path / "hubsync.jsonl").read_text().splitlines()]
    failed = {entry["mirror"] for entry in said if entry["event"] in {"mirror.failed", "mirror.parked"}}
    assert {mirror.name for mirror in load_config(config, {}).targets[0].mirrors} - {"m0:evil/api"} <= failed
    assert {entry["event"] for entry in said} <= CATALOGUE.keys()
    for printed in (done.stdout, done.stderr, status.stdout, status.stderr):
        assert set() == set(printed) & set("\x1b\x07\x9b\u202e\u2028\r"), printed[:2000]
        assert len(printed) < 200_000
        assert [] == [line for line in printed.splitlines() if line.startswith("ERROR forged")]
    files = [path for path in (tmp_path / "state").rglob("*") if path.is_file()] + [tmp_path / "hubsync.jsonl"]
    assert [] == [path for path in files if b"\x1b" in path.read_bytes() and "owned" in path.read_text("latin-1")]
    assert 2_000_000 > sum(path.stat().st_size for path in files if "lfs/objects" not in str(path))
