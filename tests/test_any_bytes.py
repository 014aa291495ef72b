"""Whatever eats bytes from a source, a Hub or an operator gives an answer for any of them, in bounded memory.

Real content is spoilt in a few places, which leads deeper than noise. A few examples of each parser run with the tests,
always the same; HUBSYNC_SEEDS=100 (`make soak`) runs a hundred times as many, each time others.
"""

import contextlib
import gzip
import io
import json
import os
import pickle
import resource
import socket
import struct
import tarfile
import threading
import zipfile
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.memory import opened
from support.records import record
from watch.test_formats_headers import GGUF, hdf5, parquet, saved

from hubsync.card.files import decode, digest_file
from hubsync.card.merge import Draft, merge_card
from hubsync.config.load import example_text, load_config
from hubsync.control import ControlServer
from hubsync.errors import ConfigError, HubsyncError
from hubsync.mirror.agent_batch import Actions, Batch
from hubsync.mirror.agent_client import Client, TransferError
from hubsync.mirror.agent_handover import Thing
from hubsync.mirror.failures import read_failure
from hubsync.monitor.status import read_status
from hubsync.store.pointer import Pointer, decode_pointer
from hubsync.store.scan import scan_file
from hubsync.views.history import read_file
from hubsync.views.log import Printer
from hubsync.watch.formats import check_structure, index_members, last_record_end

_SEEDS = int(os.environ.get("HUBSYNC_SEEDS", "0"))
_EXAMPLES = 25 * max(1, _SEEDS)
_MEMORY = 512 << 20  # beside what is there at the beginning
_OID = "ab" * 32

# Numbers that lengths and counts turn into: nothing, just too much, negative, beyond 32 and 64 bits.
_NUMBERS = [struct.pack(f"<{kind}", number) for kind, number in (
    ("Q", 0), ("Q", 1 << 31), ("Q", (1 << 63) - 1), ("Q", (1 << 64) - 1), ("I", (1 << 32) - 1), ("I", 1 << 20),
    ("H", 65535),
)]  # fmt: skip
_WORDS = [
    b"[" * 3000, b'{"a":' * 3000, b"9" * 5000, b"1e999", b"NaN", b"-1", b"null", b"\xff\xfe", b"\0" * 300, b"\n", b'"',
    b"\\u0000", b"\\ud800", b"\x1b[2J", b"a" * 70_000, b"2026-13-99T99:99:99Z", b"&a [*a, *a]", b"PK\x01\x02", b"../../x",
]  # fmt: skip


@contextlib.contextmanager
def bounded_memory() -> Iterator[None]:
    """Let this process have some memory more than it has, and no more."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + _MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)


@st.composite
def spoilt(draw: st.DrawFn, samples: list[bytes]) -> bytes:
    """One of *samples*, cut, doubled, overwritten or with something put in, a few times."""
    content = bytearray(draw(st.sampled_from(samples)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(content)))
        length = draw(st.sampled_from([0, 1, 4, 8, 30, len(content)]))
        new = draw(
            st.one_of(st.sampled_from([*_NUMBERS, *_WORDS]), st.binary(max_size=20), st.just(bytes(content[at : at + 99])))
        )
        content[at : at + length] = new

    return bytes(content)


def try_all(samples: Iterable[bytes], parse: Callable[[bytes], object]) -> None:
    """Have *parse* answer for spoilt *samples*."""

    @settings(
        max_examples=_EXAMPLES, deadline=None, derandomize=not _SEEDS, database=None, print_blob=True,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(spoilt(list(samples)))
    def answers(content: bytes) -> None:
        parse(content)

    with bounded_memory():
        answers()


# --- what lies in a source


def zipped(method: int, *, name: str = "archive/data.pkl") -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr(name, pickle.dumps({"hub_token": "x" * 30}, protocol=2))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def safetensors() -> bytes:
    header = json.dumps({"__metadata__": {"a": "b"}, "w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    return struct.pack("<Q", len(header)) + header + bytes(8)


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name in ("./model_config.yaml", "./weights.ckpt"):
            info = tarfile.TarInfo(name)
            info.size = 700
            archive.addfile(info, io.BytesIO(b"x" * 700))
    return file.getvalue()


EVENTS = (
    record(b"\x09\0\0\0\0\0\0\0\0\x1a\rbrain.Event:2")
    + record(b"\x10\x05\x2a\x0d\x0a\x0b\x0a\x04loss\x15\0\0\x80?")
    + record(b"x" * 40)
)
INDEX = json.dumps({"metadata": {"total_size": 8}, "weight_map": {"w": "model-1.safetensors", "v": "sub/../x"}}).encode()
METADATA = pickle.dumps({"storage": ["__0_0.distcp", "__1_0.distcp"]}, protocol=2)
ZIPS = [zipped(zipfile.ZIP_STORED), zipped(zipfile.ZIP_DEFLATED)]
SOURCES = {
    "model.safetensors": [safetensors()], "a.gguf": [GGUF], "a.npy": [saved(np.arange(3))], "a.h5": [hdf5(0, 96, 96)],
    "a.parquet": [parquet(9)], "model.pt": [*ZIPS, pickle.dumps({"a": [1] * 50}, protocol=0)], "pytorch_model.bin": ZIPS,
    "a.npz": ZIPS, "model.nemo": [tarred()],
    "config.json": [INDEX, b'{"a": [1, 2.5, "x", null]}'], "model.safetensors.index.json": [INDEX],
    "events.out.tfevents.1.node": [EVENTS], ".metadata": [METADATA], "trainer_state.json": [b'{"global_step": 1}'],
}  # fmt: skip


@pytest.mark.parametrize("name", SOURCES)
def test_any_file_of_a_source_gets_a_verdict(name: str) -> None:
    """Its structure is judged, its members named, its secrets found, its figures read: nothing of it is believed."""

    def parse(content: bytes) -> None:
        size = len(content)
        with opened(content) as fd:
            assert isinstance(check_structure(fd, name, size).whole, bool)
            members = index_members(fd, name)
            assert members is None or all(isinstance(member, str) for member in members)
            found = scan_file(fd, size)
            assert found is None or found.rule
            assert 0 <= last_record_end(fd, size) <= max(size, 0)
        decode(content)
        digest_file(name, lambda count: content[:count])

    try_all(SOURCES[name], parse)


def test_any_text_is_a_pointer_or_none() -> None:
    """What is taken for one names an object and a size."""

    def parse(content: bytes) -> None:
        found = decode_pointer(content)
        assert found is None or (len(found.oid) == 64 and found.size >= 0)

    try_all([Pointer(_OID, 123).encode(), Pointer(_OID, 1 << 62).encode()], parse)


# --- what a Hub says


class AnyAnswers:
    """A server that gives every request the bytes in ``answer``, and closes the connection."""

    def __init__(self) -> None:
        self.answer = b""
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            with connection:
                try:
                    connection.settimeout(5)
                    connection.recv(65536)
                    connection.sendall(self.answer)
                except OSError:
                    continue


BATCH = json.dumps({
    "transfer": "basic",
    "objects": [{
        "oid": _OID, "size": 9, "authenticated": True,
        "actions": {
            "upload": {"href": "http://127.0.0.1:9/x", "header": {"A": "b", "chunk_size": "5"}, "expires_in": 60},
            "verify": {"href": "http://127.0.0.1:9/v", "expires_at": "2030-01-01T00:00:00Z"},
        },
    }],
}).encode()  # fmt: skip
REFUSED = json.dumps({"objects": [{"oid": _OID, "size": 9, "error": {"code": 422, "message": "no"}}]}).encode()


def http(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status}", "Content-Type: application/vnd.git-lfs+json", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


def test_any_answer_of_the_batch_api_is_actions_or_a_refusal() -> None:
    """Head and body are spoilt: what comes is an address, or one kind of error."""
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(BATCH), BATCH)
    samples = [http(BATCH), http(REFUSED), chunked, http(b'{"message": "slow"}', "429 Slow", "Retry-After: 3"),
               http(b"", "307 Elsewhere", "Location: /x")]  # fmt: skip
    server = AnyAnswers()
    thing = Thing(_OID, 9, is_shared=False)

    def parse(content: bytes) -> None:
        server.answer = content
        client = Client(f"{server.url}/info/lfs", None, stall_s=5, connect_s=5)
        found: Actions | TransferError
        try:
            found = Batch(client, f"{server.url}/info/lfs", (thing,)).find(thing)
        except TransferError as exc:
            found = exc
        finally:
            client.close()
        assert isinstance(found, Actions) or len(str(found)) < 1000

    try:
        try_all(samples, parse)
    finally:
        server.close()


def test_any_words_of_git_and_the_hub_are_one_failure() -> None:
    """Whatever a remote says, it is an error of one kind with a hint or without, and short."""

    def parse(content: bytes) -> None:
        failure = read_failure("push", content.decode("utf-8", "replace"))
        assert failure.error_kind
        assert len(str(failure)) < 5000

    said = b"remote: no more than 128 commits an hour\nremote: Offending files:\nremote: - a.bin (ref: refs/heads/m)"
    try_all([said, b"HTTP 429 Too Many Requests; Retry-After: 60", b"! [rejected] main -> main (fetch first)"], parse)


def test_any_card_of_a_mirror_is_merged_or_left_alone() -> None:
    """YAML in it may be anything: hubsync's text is put in, or the reason is said."""
    card = "---\nlicense: mit\ntags:\n- a\nmodel-index: &a [{name: x}]\n---\n# Title\n"
    merged = merge_card(card, Draft({"license": "mit", "tags": ["b"]}, "text\n")).card or card

    def parse(content: bytes) -> None:
        result = merge_card(content.decode("utf-8", "replace"), Draft({"license": "mit"}, "text\n"))
        assert result.card or result.reason

    try_all([card.encode(), merged.encode()], parse)


# --- what an operator has


def test_any_config_is_read_or_refused(tmp_path: Path) -> None:
    """All that is wrong is one kind of error."""
    path = tmp_path / "hubsync.toml"
    small = '[[target]]\nname = "a"\nsource = "/data/a"\nmirrors = ["acme/x"]\nschedule = "*/5 * * * *"\nquiet = "30s"\n'

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        with contextlib.suppress(ConfigError):
            assert load_config(path, {"HOME": str(tmp_path)}).targets

    try_all([example_text().encode(), small.encode()], parse)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "packed"])
def test_any_log_is_shown_as_far_as_it_goes(tmp_path: Path, *, packed: bool) -> None:
    """Lines that are no entries are passed over; a torn archive is one kind of error."""
    path = tmp_path / ("hubsync.jsonl.1.gz" if packed else "hubsync.jsonl")
    entry = {"timestamp": "2026-11-01T10:00:00Z", "level": "info", "event": "mirror.published", "message": "x", "files": 3}
    lines = "".join(json.dumps({**entry, "bytes": number, "took_s": 0.5}) + "\n" for number in range(5)).encode()

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        shown, hint = io.StringIO(), "none is needed"
        try:
            for found in read_file(path, datetime(2026, 1, 1, tzinfo=UTC)):
                for printer in (Printer(shown, as_json=False, colour=True), Printer(shown, as_json=True, colour=False)):
                    printer.show(found)
        except HubsyncError as exc:
            hint = exc.hint
        assert hint
        assert "\x1b[2J" not in shown.getvalue()

    try_all([gzip.compress(lines) if packed else lines], parse)


def test_any_status_is_read_or_refused(tmp_path: Path) -> None:
    """`hubsync status` ends with an error that has a cure, never with a traceback."""
    path = tmp_path / "status.json"
    status = {
        "schema_version": 1,
        "generated_at": "2026-11-01T10:00:00Z",
        "daemon": {"state": "running", "pid": 1},
        "targets": [],
    }

    def parse(content: bytes) -> None:
        path.write_bytes(content)
        hint = "none is needed"
        try:
            read_status(path)
        except HubsyncError as exc:
            hint = exc.hint
        assert hint

    try_all([json.dumps(status).encode()], parse)


def test_any_command_is_answered(tmp_path: Path) -> None:
    """Whatever comes over the control socket, the next one is served."""
    heard: list[str] = []
    server = ControlServer(tmp_path / "control.sock", lambda command, _: heard.append(command) or {"idle": {}})
    server.start()

    def ask(content: bytes) -> bytes:
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(20)
            client.connect(str(tmp_path / "control.sock"))
            try:
                client.sendall(content + b"\n")
                client.shutdown(socket.SHUT_WR)
                return client.recv(65536)
            except (BrokenPipeError, ConnectionResetError):  # more than a command may hold
                return b""

    try:
        try_all([b'{"command": "flush", "targets": ["a"]}', b'{"command": "x", "options": {"limit_s": 3}}'], ask)
        assert json.loads(ask(b'{"command": "flush"}'))["ok"]
    finally:
        server.stop()
    assert "flush" in heard
