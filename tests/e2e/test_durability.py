"""What a power cut finds on the disk: each thing is synced before what names it, as strace sees it of a publication."""

import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from outside import repository, strace
from support.running import ROOT, digests, download, endpoint, hubsync, write_config

from hubsync.localhub import LocalHub

CALLS = "fsync,fdatasync,rename,renameat,renameat2,link,linkat,unlink,unlinkat"
SYNCED, NAMED, REMOVED = "synced", "named", "removed"


def read_trace(trace: Path, state: Path) -> list[tuple[str, str]]:
    """Return what was synced, named and removed below *state*, in order: paths below the target."""
    done = []
    for line in trace.read_text().splitlines():
        call, _, said = line.partition("(")
        paths = [
            path.removeprefix(f"{state}/targets/run/") for path in re.findall(rf"{re.escape(str(state))}[^\">]*", said)
        ]
        if not paths or not said.endswith(" = 0"):
            continue
        kind = SYNCED if "sync" in call else REMOVED if "unlink" in call else NAMED
        done.append((kind, re.sub(r"m0%3A[^/]*\.git", "mirror", paths[-1])))

    return done


def test_what_is_named_is_on_the_disk_before_its_name(tmp_path: Path) -> None:
    """Object, pack, snapshot, what a mirror shows; and only then is the object let go."""
    source, state, trace = tmp_path / "run", tmp_path / "state", tmp_path / "trace"
    source.mkdir()
    (source / "model.bin").write_bytes(b"\0" + os.urandom(1000))
    (source / "notes.txt").write_text("small")
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"}, capture='"copy"')
        argv = [*strace(trace, CALLS), sys.executable, "-m", "hubsync", "once", "-c", str(config)]
        subprocess.run(argv, cwd=ROOT, check=True, capture_output=True)

    done = read_trace(trace, state)
    objects, store, mirror = "store.git/lfs/objects", "store.git", "mirrors/mirror"
    expected = [
        (SYNCED, "store.git/lfs/pins/[^/]*"),
        (NAMED, f"{objects}/../../[0-9a-f]*"),
        (SYNCED, f"{objects}/../.."),
        (SYNCED, f"{objects}/.."),
        (SYNCED, objects),
        (SYNCED, f"{store}/objects/pack/tmp_pack_.*"),
        (SYNCED, f"{store}/objects/pack/tmp_idx_.*"),
        (NAMED, f"{store}/objects/pack/pack-.*idx"),
        (SYNCED, f"{store}/refs/heads/snapshots.lock"),
        (NAMED, f"{store}/refs/heads/snapshots"),
        (SYNCED, f"{store}/objects/pack"),
        (SYNCED, f"{store}/refs/heads"),
        (SYNCED, f"{mirror}/objects/pack/tmp_pack_.*"),
        (NAMED, f"{mirror}/refs/mirror/graft/main"),
        (SYNCED, f"{mirror}/refs/mirror/published.lock"),
        (NAMED, f"{mirror}/refs/mirror/published"),
        (SYNCED, f"{mirror}/refs/mirror"),
        (REMOVED, f"{objects}/../../[0-9a-f]*"),
    ]
    at = -1
    for kind, pattern in expected:
        found = [n for n, (was, path) in enumerate(done) if was == kind and re.fullmatch(pattern, path)]
        assert found, (kind, pattern, done)
        assert at < found[0], (kind, pattern, done)
        at = found[0]


@pytest.mark.parametrize("when", [1, 2, 3])
def test_what_the_disk_did_not_take_is_not_counted_on(tmp_path: Path, when: int) -> None:
    """Each thread's and each git's sync of that number fails: nothing of it is kept, and the next run publishes all."""
    source, state = tmp_path / "run", tmp_path / "state"
    source.mkdir()
    (source / "model.bin").write_bytes(b"\0" + os.urandom(1000))
    (source / "notes.txt").write_text("small")
    oid = hashlib.sha256((source / "model.bin").read_bytes()).hexdigest()
    with LocalHub(tmp_path / "hub") as hub:
        config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"}, capture='"copy"')
        argv = [*strace(tmp_path / "trace", "fsync"), "-e", f"inject=fsync:error=EIO:when={when}", sys.executable, "-m",
                "hubsync", "once", "-c", str(config)]  # fmt: skip
        failed = subprocess.run(argv, cwd=ROOT, check=False, capture_output=True, text=True)

        assert 1 == failed.returncode
        assert "Input/output error" in failed.stderr or "couldn't write" in failed.stderr
        assert not list(state.rglob(oid))
        assert not repository(hub).exists() or "model.bin" not in download(hub, "acme/x", tmp_path / "first")
        assert 0 == hubsync(config, "once").returncode
        assert digests(source) == download(hub, "acme/x", tmp_path / "back")
