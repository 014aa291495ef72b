"""What only we may read, write and prepare, and what we need of others: said before it hurts."""

import json
import os
import resource
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from structlog.testing import capture_logs
from support.rig import declare
from support.running import ROOT, Daemon, endpoint, hubsync, write_checkpoint, write_config, write_safetensors

from hubsync.config.model import TokenSource
from hubsync.errors import StateError
from hubsync.localhub import LocalHub
from hubsync.mirror.token import Tokens
from hubsync.monitor.sinks import FileSink
from hubsync.service import hold_state, tell_exposed_tokens
from hubsync.store.git import Git
from hubsync.store.snapshot import Store

SOMEBODY = 12345
as_root = pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="only root gives files away")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


# --- what is ours: SEC17, SEC18, GIT11


def test_nobody_else_can_read_the_state(tmp_path: Path, hub: LocalHub) -> None:
    """Whatever umask it was started with, no file of the state has a bit for others; a pin by link has its writer's."""
    source = tmp_path / "run"
    write_checkpoint(source / "checkpoint-1")
    (source / "notes.txt").write_text("x")
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"}, capture='"copy"')
    with Daemon(config, "sh", "-c", 'umask 0; exec "$@"', "sh") as daemon:
        daemon.wait_for("mirror.published")
        daemon.wait_for("heartbeat")
        open_to_others = [path for path in (tmp_path / "state").rglob("*") if mode(path) & 0o077]
        assert 0 == daemon.stop()

    found = [tmp_path / "state", *(tmp_path / "state").rglob("*")]
    assert len(found) > 20
    assert [] == [path for path in open_to_others if not path.is_dir()]
    assert [] == [path for path in found if not path.is_dir() and mode(path) & 0o077]
    assert 0o700 == mode(tmp_path / "state")


def test_no_process_may_dump_core(tmp_path: Path, hub: LocalHub) -> None:
    """The memory that holds a token never becomes a file, whatever limit hubsync was started with."""
    source = tmp_path / "run"
    source.mkdir()
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    with Daemon(config, "prlimit", "--core=unlimited:unlimited") as daemon:
        daemon.wait_for("daemon.ready")
        limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_CORE)
        assert 0 == daemon.stop()

    assert (0, 0) == limits


@pytest.mark.parametrize("kind", ["state", "store"])
def test_what_others_could_have_prepared_is_refused(tmp_path: Path, kind: str) -> None:
    """A directory that others may write to, or a link in its place, is refused with the cure; ours is taken."""

    def use(directory: Path) -> None:
        if kind == "store":
            Git(directory).open()
        else:
            with hold_state(directory):
                pass

    directory = tmp_path / "directory"
    use(directory)
    (tmp_path / "link").symlink_to(directory)
    with pytest.raises(StateError, match="is a symlink") as link:
        use(tmp_path / "link")
    for open_mode in (0o770, 0o707, 0o1777):
        directory.chmod(open_mode)
        with pytest.raises(StateError, match="others may write") as caught:
            use(directory)
        assert f"chmod 700 {directory}" in caught.value.hint
        assert open_mode == mode(directory)
    directory.chmod(0o755)
    use(directory)

    assert str(directory) in link.value.hint
    assert 0o700 == mode(directory)


@pytest.mark.parametrize("place", ["targets", "targets/run", "targets/run/store.git"])
def test_no_link_is_followed_below_the_state(tmp_path: Path, hub: LocalHub, place: str) -> None:
    """One that was planted where a part of the state goes is refused, and nothing is written at its end."""
    source, state, elsewhere = tmp_path / "run", tmp_path / "state", tmp_path / "elsewhere"
    source.mkdir()
    (source / "notes.txt").write_text("x")
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    (state / place).parent.mkdir(parents=True, mode=0o700)
    elsewhere.mkdir()
    (state / place).symlink_to(elsewhere)

    done = hubsync(config, "once")

    assert 73 == done.returncode
    assert f"{state / place} is a symlink" in done.stderr
    assert [] == list(elsewhere.iterdir())
    assert (state / place).is_symlink()


@pytest.mark.parametrize("name", [
    "ledger.sqlite", "ledger.sqlite-wal", "ledger.sqlite-shm", "format", "open", "seal.json", "pruned.json", "pruned.lock",
    "mirrors", "store.git/HEAD", "store.git/config", "store.git/objects", "store.git/objects/info/alternates",
    "store.git/lfs/pins",
])  # fmt: skip
@pytest.mark.parametrize("leads_to", ["a file", "nothing"])
def test_no_link_is_followed_in_a_store(tmp_path: Path, name: str, leads_to: str) -> None:
    """One in the place of a file of ours is named with the cure, and what it leads to stays as it is."""
    place, elsewhere = tmp_path / "store" / name, tmp_path / "elsewhere"
    source = tmp_path / "run"
    source.mkdir()
    place.parent.mkdir(parents=True, mode=0o700)
    if leads_to == "a file":
        elsewhere.write_text("somebody's")
    place.symlink_to(elsewhere)

    with pytest.raises(StateError, match=rf"{place} is a symlink") as refused:
        Store(tmp_path / "store", source).open()

    assert "remove" in refused.value.hint
    assert leads_to != "a file" or "somebody's" == elsewhere.read_text()
    assert (leads_to == "a file") == elsewhere.exists()


@pytest.mark.parametrize("name", ["lock", "paused", "paused/run"])
def test_no_link_is_followed_beside_the_targets(tmp_path: Path, name: str) -> None:
    """What the service keeps for itself is looked at before it is used."""
    place = tmp_path / "state" / name
    place.parent.mkdir(parents=True, mode=0o700)
    place.symlink_to(tmp_path)

    with pytest.raises(StateError, match=rf"{place} is a symlink"), hold_state(tmp_path / "state"):
        pass


def test_a_ledger_behind_a_link_ends_hubsync(tmp_path: Path, hub: LocalHub) -> None:
    """What is found there may be a database of somebody else's."""
    source, state = tmp_path / "run", tmp_path / "state"
    source.mkdir()
    (source / "notes.txt").write_text("x")
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    (state / "targets/run").mkdir(parents=True, mode=0o700)
    (tmp_path / "elsewhere").write_text("somebody's")
    (state / "targets/run/ledger.sqlite").symlink_to(tmp_path / "elsewhere")

    done = hubsync(config, "once")

    assert 73 == done.returncode
    assert f"{state}/targets/run/ledger.sqlite is a symlink" in done.stderr
    assert "somebody's" == (tmp_path / "elsewhere").read_text()


def test_an_empty_directory_is_forgiven_the_umask_of_its_maker(tmp_path: Path) -> None:
    """Debian's users have a group of their own and the umask 002: what they make is closed before it is used."""
    (tmp_path / "state").mkdir()
    (tmp_path / "state").chmod(0o775)

    with hold_state(tmp_path / "state"):
        assert 0o700 == mode(tmp_path / "state")


@as_root
def test_what_belongs_to_another_user_is_refused(tmp_path: Path, hub: LocalHub) -> None:
    """No repository whose path is given is asked by git whose it is, so that hubsync asks; `check --online` does too."""
    source = tmp_path / "run"
    source.mkdir()
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    store = Store(tmp_path / "state" / "targets" / "run", source)
    store.open()
    store.close()
    for part in (store.git.git_dir, store.directory):
        os.chown(part, SOMEBODY, SOMEBODY)
        with pytest.raises(StateError, match=f"belongs to user {SOMEBODY}"):
            store.open()
    os.chown(tmp_path / "state", SOMEBODY, SOMEBODY)

    refused = hubsync(config, "once")

    assert 73 == refused.returncode
    assert f"belongs to user {SOMEBODY}" in refused.stderr
    assert f"belongs to user {SOMEBODY}" in hubsync(config, "check", "--online").stdout


def test_a_log_file_is_for_its_group_whenever_it_is_made(tmp_path: Path) -> None:
    """At the start and after logrotate, whatever the umask; one that is there keeps its mode."""
    before = os.umask(0)
    try:
        sink = FileSink(tmp_path / "first")
        os.umask(0o077)
        (tmp_path / "first").rename(tmp_path / "rotated")
        sink.reopenIfNeeded()
        sink.close()
        (tmp_path / "there").touch(0o600)
        FileSink(tmp_path / "there").close()
    finally:
        os.umask(before)

    assert {"first": 0o640, "rotated": 0o640, "there": 0o600} == {path.name: mode(path) for path in tmp_path.iterdir()}


# --- tokens: CFG09


@pytest.mark.parametrize(
    ("file_mode", "directory_mode", "is_exposed"),
    [(0o600, 0o755, False), (0o640, 0o755, False), (0o604, 0o755, True), (0o644, 0o700, False), (0o644, 0o711, True)],
)
def test_a_token_that_every_user_can_read_is_said(file_mode: int, directory_mode: int, *, is_exposed: bool) -> None:
    """A group may be meant; everybody is not. A directory that is closed closes what lies in it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        root = Path(place)
        config = declare(root, [], {}, {})
        (root / "token").write_text("hf_x\n")
        (root / "token").chmod(file_mode)
        root.chmod(directory_mode)
        tokens = Tokens({"HF_TOKEN_PATH": str(root / "token")})
        for source in (None, TokenSource(file=root / "token")):
            mirrored = _with_endpoint(config, source)
            with capture_logs() as log:
                tell_exposed_tokens(mirrored, tokens)

            said = [entry["path"] for entry in log if entry["event"] == "token.exposed"]
            assert ([str(root / "token")] if is_exposed else []) == said


def _with_endpoint(config, source):  # noqa: ANN001, ANN202 - of this file only
    from hubsync.config.model import Endpoint, Mirror  # noqa: PLC0415 - beside its only use

    mirror = Mirror(name="m", endpoint="e", repo_id="acme/x", repo_type="model")
    target = config.targets[0].model_copy(update={"mirrors": (mirror,)})
    endpoints = {"e": Endpoint(name="e", url="https://hub.example", token=source)}

    return config.model_copy(update={"targets": (target,), "endpoints": endpoints})


def test_check_says_that_a_token_is_exposed(tmp_path: Path, hub: LocalHub) -> None:
    """Before the daemon runs, with the command that mends it."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        Path(place).chmod(0o755)
        token = Path(place) / "token"
        token.write_text(hub.token)
        token.chmod(0o644)
        source = tmp_path / "run"
        source.mkdir()
        table = f'url = "{hub.url}"\ntoken = {{ file = "{token}" }}'
        config = write_config(tmp_path / "hubsync.toml", source, {table: "acme/x"})

        exposed = hubsync(config, "check", "--online")
        token.chmod(0o600)
        closed = hubsync(config, "check", "--online")

    assert (1, 0) == (exposed.returncode, closed.returncode), closed.stdout
    assert f"chmod 600 {token}" in exposed.stdout


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir], ids=["FIFO", "directory"])
def test_check_refuses_a_token_that_is_no_file(tmp_path: Path, hub: LocalHub, make: Callable[[Path], None]) -> None:
    """At once, and never with a chmod, which would lock a directory."""
    (tmp_path / "run").mkdir()
    make(tmp_path / "token")
    (tmp_path / "token").chmod(0o755)
    table = f'url = "{hub.url}"\ntoken = {{ file = "{tmp_path}/token" }}'
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "run", {table: "acme/x"})

    checked = hubsync(config, "check", "--online")

    assert 77 == checked.returncode, checked.stdout
    assert f"{tmp_path}/token: " in checked.stdout
    assert "name a regular file" in checked.stdout
    assert "chmod" not in checked.stdout


# --- what another user's files need


@as_root
def test_check_tells_another_user_what_it_cannot_read() -> None:
    """Files of mode 0600, as safetensors writes them: not yet there it is said, once they are it is a failure."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place, LocalHub(Path(place) / "hub") as hub:
        root, source = Path(place), Path(place) / "run"
        source.mkdir()
        (source / "config.json").write_text("{}")
        table = f'url = "{hub.url}"\ntoken = {{ file = "{root}/token" }}'
        config = write_config(root / "hubsync.toml", source, {table: "acme/x"})
        (root / "state").mkdir()
        (root / "token").write_text(hub.token)
        for path in (root, source, root / "state"):
            path.chmod(0o755)
        for path in (root / "state", root / "token"):
            os.chown(path, SOMEBODY, SOMEBODY)
        (root / "token").chmod(0o600)

        before = check_as_somebody(config)
        write_safetensors(source / "checkpoint-1" / "model.safetensors", 1000)
        (source / "checkpoint-1" / "model.safetensors").chmod(0o600)
        after = check_as_somebody(config)

    assert {"run: source", "run: pins"} == {what for what, kind, said in before if "root" in said and not kind}
    assert any("what safetensors writes there, only root can read" in said for _, _, said in before)
    assert ["checkpoint-1/model.safetensors"] == [said.split()[-1] for _, kind, said in after if kind == "local_io"]


def check_as_somebody(config: Path) -> list[tuple[str, str, str]]:
    """Return what `check --online` found, run as another user."""
    prefix = ["setpriv", f"--reuid={SOMEBODY}", f"--regid={SOMEBODY}", "--clear-groups"]
    argv = [*prefix, sys.executable, "-m", "hubsync", "check", "--online", "--json", "-c", str(config)]
    environment = {**os.environ, "HOME": "/nonexistent"}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout, done.stderr
    return [(one["what"], one["error_kind"], one["said"]) for one in json.loads(done.stdout)["findings"]]


# --- what the service's sandbox leaves

CLOSED = """set -e
mount --make-rprivate /
mount --bind "$1" "$1"
mount -o remount,bind,ro /
mount -t tmpfs tmpfs /var/tmp
shift
exec setpriv --no-new-privs --bounding-set=-all --inh-caps=-all "$@"
"""
OWN_MOUNTS = ("unshare", *(() if os.geteuid() == 0 else ("--user", "--map-root-user")), "--mount")


def test_it_works_where_only_its_state_can_be_written(tmp_path: Path, hub: LocalHub) -> None:
    """As under `ProtectSystem=strict` and without any capability: by git and by HTTP, home and source read-only."""
    source = tmp_path / "run"
    write_checkpoint(source / "checkpoint-1")
    (tmp_path / "state").mkdir(0o700)
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    mirrors = '"m0:acme/x", { repo = "m0:acme/y", transport = "http" }'
    config.write_text(config.read_text().replace('"m0:acme/x"', mirrors))

    def closed(*argv: str) -> subprocess.CompletedProcess[str]:
        command = [*OWN_MOUNTS, "sh", "-c", CLOSED, "sh", str(tmp_path / "state"), *argv]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    assert 0 != closed("touch", str(source / "x")).returncode
    assert 0 == closed("touch", str(tmp_path / "state" / "x")).returncode
    done = closed(sys.executable, "-m", "hubsync", "once", "-c", str(config), "--timeout", "60s")

    assert 0 == done.returncode, done.stderr
