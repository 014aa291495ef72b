"""The units of systemd: those that are shipped, and those that are made for a config."""

import os
import pwd
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from support.running import ROOT, Daemon, write_config

from hubsync.cli import cli

UNITS = ROOT / "systemd"
SYSTEM = ("hubsync.service", "hubsync@.service")
ALL = (*SYSTEM, "user/hubsync.service")
Install = Callable[..., Result]
SOMEBODY = next(user for user in pwd.getpwall() if user.pw_uid not in {0, os.geteuid()})
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


def analyze(*arguments: str | Path, runtime: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = ["systemd-analyze", *map(str, arguments)]
    environment = {**os.environ, **({} if runtime is None else {"XDG_RUNTIME_DIR": str(runtime)})}
    return subprocess.run(
        command, check=False, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment
    )


def verify(unit: Path) -> str:
    """Return what systemd says of a unit: nothing if it is right. Misspelt keys only give output, no exit status."""
    of_user = ["--user"] if "user" in unit.parts else []
    done = analyze("verify", "--man=no", *of_user, unit, runtime=unit.parent)
    assert done.stdout or done.returncode == 0

    return done.stdout


def is_tight(unit: Path) -> bool:
    """Tell whether the exposure is at most 1.5 of 10; of a user's service, which may not do all that takes, 6.2."""
    limits = ["--user", "--threshold=62"] if "user" in unit.parts else ["--threshold=15"]
    return analyze("security", "--offline=true", "--no-pager", *limits, unit, runtime=unit.parent).returncode == 0


@pytest.fixture
def copy(tmp_path: Path) -> Callable[[str], Path]:
    """A shipped unit that starts a program which exists everywhere."""

    def make(name: str) -> Path:
        goal = tmp_path / name
        goal.parent.mkdir(exist_ok=True)
        goal.write_text((UNITS / name).read_text().replace("=/usr/bin/hubsync run", "=/usr/bin/true run"))
        return goal

    return make


@pytest.mark.parametrize("name", ALL)
def test_a_unit_has_no_mistake(copy: Callable[[str], Path], name: str) -> None:
    """Systemd understands every key."""
    assert "" == verify(copy(name))


@pytest.mark.parametrize("name", ALL)
def test_a_misspelt_key_would_be_noticed(copy: Callable[[str], Path], name: str) -> None:
    """The check above is not blind."""
    unit = copy(name)
    unit.write_text(unit.read_text().replace("KillMode=", "KilMode="))

    assert "KilMode" in verify(unit)


@pytest.mark.parametrize("name", ALL)
def test_the_sandbox_stays_tight(copy: Callable[[str], Path], name: str) -> None:
    """The exposure of a service is as low as it can be."""
    assert is_tight(copy(name))


@pytest.mark.parametrize("name", SYSTEM)
def test_a_training_comes_first_whatever_slice_it_runs_in(name: str) -> None:
    """Weights count among siblings only: in a slice, the service would share that slice's weight with nobody."""
    assert ["-.slice"] == settings(UNITS / name, "Slice")
    assert ["1"] == settings(UNITS / name, "CPUWeight")


@pytest.mark.parametrize("name", ALL)
def test_hundreds_of_targets_are_no_runaway(name: str) -> None:
    """Each takes about six threads, and what git starts: forty were enough for a limit of 256, where no thread starts."""
    assert ["4096"] == settings(UNITS / name, "TasksMax")


def test_the_sandbox_check_sees_a_hole(copy: Callable[[str], Path]) -> None:
    """A unit that may do everything is beyond the threshold."""
    unit = copy("hubsync.service")
    unit.write_text("[Service]\nExecStart=/usr/bin/true\n")

    assert not is_tight(unit)


def test_a_program_carries_the_units_that_are_shipped() -> None:
    """What `install-service` begins with is what lies in systemd/, so that both are judged here."""
    for name in ALL:
        assert (UNITS / name).read_text() == resources.files("hubsync").joinpath("systemd", name).read_text()


def settings(unit: Path, name: str) -> list[str]:
    """Return what a unit sets *name* to, in order."""
    return [line.partition("=")[2] for line in unit.read_text().splitlines() if line.startswith(f"{name}=")]


@pytest.fixture
def install(tmp_path: Path) -> Install:
    """Write a unit for a config into `units`, or into `user`."""

    def run(config: Path, *options: str) -> Result:
        goal = tmp_path / ("user" if "--user" in options else "units")
        argv = ["-c", str(config), "install-service", "--dir", str(goal), *options]
        return CliRunner().invoke(cli, argv, obj=dict(os.environ))

    return run


ENDPOINT = 'url = "https://hub.example"\ntoken = { credential = "hub-token" }'


def declare(tmp_path: Path, source: str, **more: Any) -> Path:
    path = Path(write_config(tmp_path / "hubsync.toml", Path(source), {ENDPOINT: "acme/x"}, **more))
    path.write_text(path.read_text().replace(f'state_dir = "{tmp_path}/state"\n', ""))
    return path


@pytest.mark.parametrize("options", [(), ("--links",), ("--as", "root"), ("--user",)], ids=" ".join)
def test_a_unit_is_made_for_a_config(tmp_path: Path, install: Install, options: Sequence[str]) -> None:
    """It has no mistake and is tight, whatever is asked for; what starts is this very hubsync."""
    config = declare(tmp_path, "/data/runs/llama", store_dir='"/data/.hubsync"')

    done = install(config, *options)

    unit = tmp_path / ("user" if "--user" in options else "units") / "hubsync.service"
    assert (0, "") == (done.exit_code, done.stderr)
    assert "" == verify(unit)
    assert "root" in options or is_tight(unit)
    (start,) = settings(unit, "ExecStart")
    assert os.access(start.split()[0], os.X_OK)
    assert start.endswith(f" run --config {config}")
    assert [f"hub-token:{tmp_path}/hub-token"] == settings(unit, "LoadCredential")
    assert "/data/.hubsync /data/runs/llama" in settings(unit, "RequiresMountsFor")[0]
    assert ["4096"] == settings(unit, "TasksMax")
    assert f"install -m 0600 /dev/stdin {tmp_path}/hub-token" in done.stdout


def test_sources_are_read_only_and_stores_are_written(tmp_path: Path, install: Install) -> None:
    """Also names that a unit would take for something else, logs and metrics, and what the service's /tmp would hide."""
    config = declare(tmp_path, "/data/my runs/50%", store_dir='"/data/.hubsync"')
    text = config.read_text().replace("[log]", '[log]\nfile = "/srv/logs/hubsync.jsonl"')
    config.write_text(f'{text}\n[[target]]\nname = "b"\nsource = "/tmp/b"\nmirrors = ["m0:acme/y"]\n')

    install(config)

    unit = tmp_path / "units" / "hubsync.service"
    assert ['"/data/my runs/50%%" /tmp/b'] == settings(unit, "ReadOnlyPaths")
    assert ["/data/.hubsync /srv/logs"] == settings(unit, "ReadWritePaths")
    assert ["/tmp/b"] == settings(unit, "BindReadOnlyPaths")
    assert "" == verify(unit)
    assert is_tight(unit)


def test_hard_links_need_one_mount(tmp_path: Path, install: Install) -> None:
    """With --links the directory that holds source and store is writable; that is never the whole system."""
    shared = declare(tmp_path, "/data/runs", store_dir='"/data/.hubsync"')
    assert 0 == install(shared, "--links").exit_code
    unit = tmp_path / "units" / "hubsync.service"
    before = unit.read_text()
    assert (["/data"], []) == (settings(unit, "ReadWritePaths"), settings(unit, "ReadOnlyPaths"))

    apart = install(declare(tmp_path, "/data/runs", store_dir='"/srv/store"'), "--links")

    assert 2 == apart.exit_code
    assert "store_dir" in apart.stderr
    assert before == unit.read_text()


def test_it_runs_as_who_owns_the_sources(tmp_path: Path, install: Install) -> None:
    """Since safetensors' files are for their owner alone; not as root unless that is said."""
    source = tmp_path / "run"
    source.mkdir()
    config = declare(tmp_path, str(source))
    found = []
    for owner in (0, SOMEBODY.pw_uid) if os.geteuid() == 0 else (os.geteuid(),):
        if os.geteuid() == 0:
            os.chown(source, owner, -1)
        install(config)
        found.append(settings(tmp_path / "units" / "hubsync.service", "User")[-1])

    mine = pwd.getpwuid(os.geteuid()).pw_name
    assert (["hubsync", SOMEBODY.pw_name] if os.geteuid() == 0 else [mine]) == found


@as_root
def test_what_the_service_may_not_use_is_said(install: Install) -> None:
    """Directories of another user, and files on whose way it is not let in: each with the command that mends it."""
    with tempfile.TemporaryDirectory(dir=Path.home()) as place:
        root, source = Path(place), Path(place) / "my runs"
        source.mkdir()
        os.chown(source, SOMEBODY.pw_uid, -1)
        for name in ("store", "theirs"):
            (root / name).mkdir()
        os.chown(root / "theirs", SOMEBODY.pw_uid, -1)
        for name, mode in {"locked": 0o600, "open": 0o644}.items():
            (root / name).touch()
            (root / name).chmod(mode)
        config = write_config(
            root / "hubsync.toml",
            source,
            {
                f'url = "https://{name}.example"\ntoken = {{ file = "{root}/{name}" }}': "acme/x"
                for name in ("locked", "open")
            },
            store_dir=f'"{root}/store"',
        )
        config.write_text(config.read_text().replace(f'"{root}/state"', f'"{root}/theirs"'))

        said = install(config).stdout.splitlines()

        who = SOMEBODY.pw_name
        assert [f"  chown -R {who}: {root}/store"] == [line for line in said if "chown" in line]
        rights = [line.partition("    #")[0] for line in said if "setfacl" in line]
        assert f"  setfacl -m u:{who}:x {root}" in rights
        assert f"  setfacl -m u:{who}:r {root}/locked" in rights
        assert not [line for line in rights if line.endswith(("/open", "/hubsync.toml"))]


def test_a_config_that_the_service_does_not_see_is_said(install: Install) -> None:
    """It has a /tmp of its own, unless it is the service of a user."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        config = declare(Path(place), "/data/runs")

        said, own = install(config).stdout, install(config, "--user").stdout

    assert f"does not see {config}" in said
    assert "does not see" not in own


def test_nobody_is_nobodys_service(tmp_path: Path, install: Install) -> None:
    """Asked for, it is refused with a cure; what nobody owns is read by hubsync's own user."""
    source = tmp_path / "run"
    source.mkdir()
    config = declare(tmp_path, str(source))
    refused = install(config, "--as", "nobody")

    assert (2, True) == (refused.exit_code, "user of its own" in refused.stderr)
    assert not (tmp_path / "units").exists()
    if os.geteuid() == 0:
        os.chown(source, pwd.getpwnam("nobody").pw_uid, -1)
        install(config)
        assert "hubsync" == settings(tmp_path / "units" / "hubsync.service", "User")[-1]


def test_a_unit_of_a_person_is_not_replaced(tmp_path: Path, install: Install) -> None:
    """Only what was written by hubsync is written anew; a name that no unit can say is refused."""
    config = declare(tmp_path, "/data/runs")
    goal = tmp_path / "units" / "hubsync.service"
    assert [0, 0] == [install(config).exit_code, install(config).exit_code]
    goal.write_text("[Service]\nExecStart=/usr/bin/mine\n")

    refused = install(config)

    assert 73 == refused.exit_code
    assert "ExecStart=/usr/bin/mine" in goal.read_text()
    assert "--print" in refused.stderr


STUCK = """
import sys, threading, time
from pathlib import Path
from hubsync import jobs
from hubsync.cli import main
start = jobs.Jobs.start
def start_until_told(self):
    start(self)
    def pause():
        while not Path(sys.argv[-1] + ".stuck").exists():
            time.sleep(0.01)
        self._scheduler.pause()
    threading.Thread(target=pause, daemon=True).start()
jobs.Jobs.start = start_until_told
main()
"""


def test_a_scheduler_that_hangs_is_not_called_alive(tmp_path: Path) -> None:
    """Its thread is there and nothing runs any more: the watchdog is not fed, so that systemd starts it anew."""
    (tmp_path / "run").mkdir()
    config = write_config(tmp_path / "hubsync.toml", tmp_path / "run", {'url = "http://127.0.0.1:9"': "acme/x"})
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(20)

        def is_fed(timeout_s: float) -> bool:
            manager.settimeout(timeout_s)
            try:
                while "WATCHDOG=1" not in manager.recv(4096).decode():
                    pass
            except TimeoutError:
                return False
            return True

        prefix = ("sh", "-c", 'shift 3; exec "$0" -c "$HUBSYNC_TEST_SCRIPT" "$@"', sys.executable)
        told = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "1000000", "HUBSYNC_TEST_SCRIPT": STUCK}
        with Daemon(config, *prefix, **told) as daemon:
            daemon.wait_for("daemon.ready")
            assert is_fed(20)
            Path(f"{config}.stuck").touch()
            is_fed(0.7)  # what was on its way
            is_fed(0.7)
            assert not is_fed(2)
            daemon.process.kill()
