"""The command that makes a service of systemd from a config."""
# ruff: noqa: PLC0415 - heavy imports stand in the commands that need them

import os
import pwd
import shlex
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from hubsync.cli.app import Session, cli, config_option, pass_session
from hubsync.errors import StateError, UsageError

if TYPE_CHECKING:
    from hubsync.config.model import Config
    from hubsync.unit_file import Installation

_NAME = "hubsync.service"
_NOBODY = "nobody"  # whose files belong to whatever else runs so; systemd.exec(5) advises against it


@cli.command("install-service")
@click.option("--user", "is_own", is_flag=True, help="For your own user's manager; needs no root.")
@click.option("--as", "user", metavar="USER", help="Whom it runs as (default: who owns all sources, else hubsync).")
@click.option("--links", is_flag=True, help="Let it hard-link files: source and store in one mount that it may write to.")
@click.option("--dir", "directory", type=click.Path(path_type=Path), help="Where the unit is written.")
@click.option("--print", "is_printed", is_flag=True, help="Print the unit and write nothing.")
@config_option
@pass_session
def install_service(
    session: Session, *, is_own: bool, user: str | None, links: bool, directory: Path | None, is_printed: bool
) -> None:
    """Write a unit for systemd that fits the config.

    The service may read the sources and write its stores, and gets the tokens that are credentials. One that was written
    before is replaced; local changes belong into a drop-in, which stays.
    """
    from importlib import resources

    from hubsync.unit_file import STATE_DIR, Installation, render_unit

    if user == _NOBODY:
        raise UsageError(
            "a service of `nobody` would share its files, and its tokens, with all that runs as nobody",
            hint="leave out --as for a user of its own, or name the user who trains",
        )
    if not is_own:
        session.environment["STATE_DIRECTORY"] = str(STATE_DIR)  # as the unit will give it
    config = session.load()
    config = config.model_copy(update={"path": config.path.absolute()})
    installation = Installation(_find_command(), None if is_own else user or _find_user(config), has_links=links)
    template = resources.files("hubsync").joinpath("systemd", *(["user"] if is_own else []), _NAME).read_text("utf-8")
    text = render_unit(template, config, installation)
    if is_printed:
        click.echo(text, nl=False)
        return
    goal = (directory or _find_directory(session, is_own=is_own)) / _NAME
    _write(goal, text)
    click.echo(f"wrote {goal}; now run:")
    for step in _steps(config, installation):
        click.echo(f"  {step}")


def _find_command() -> tuple[str, ...]:
    """Return how this very hubsync is started."""
    script = Path(sys.executable).with_name("hubsync")
    return (str(script),) if os.access(script, os.X_OK) else (sys.executable, "-m", "hubsync")


def _find_user(config: "Config") -> str:
    """Return who owns all sources, as far as they are there; root, who may do more than is needed, must be named."""
    from hubsync.store.private import user_name

    owners = {target.source.stat().st_uid for target in config.targets if target.source.exists()}
    owner = user_name(owners.pop()) if len(owners) == 1 and 0 not in owners else "hubsync"

    return "hubsync" if owner == _NOBODY else owner  # as which a network file system may show whom it does not know


def _find_directory(session: Session, *, is_own: bool) -> Path:
    if not is_own:
        return Path("/etc/systemd/system")
    home = session.environment.get("XDG_CONFIG_HOME") or Path("~/.config").expanduser()

    return Path(home) / "systemd" / "user"


def _write(goal: Path, text: str) -> None:
    """Write the unit; one that a person wrote is never replaced."""
    from hubsync.unit_file import WRITTEN

    try:
        if goal.exists() and not goal.read_text("utf-8").startswith(WRITTEN):
            raise StateError(f"{goal} was not written by hubsync", hint="move it away, or see what it would be: --print")
        goal.parent.mkdir(parents=True, exist_ok=True)
        new = goal.with_name(f".{goal.name}.new")
        new.write_text(text, "utf-8")
        new.chmod(0o644)
        new.replace(goal)
    except OSError as exc:
        raise StateError(f"{goal}: {exc.strerror}", hint="run it as root, or with --user for your own service") from exc


def _steps(config: "Config", installation: "Installation") -> Iterator[str]:
    """Yield what is left to do."""
    from hubsync.unit_file import credentials

    user = installation.user
    if user == "hubsync":
        yield "useradd --system --no-create-home --shell /usr/sbin/nologin hubsync    # if there is no such user"
        for source in dict.fromkeys(target.source for target in config.targets):
            yield f"setfacl -R -m u:hubsync:rX -m d:u:hubsync:rX {shlex.quote(str(source))}    # unless it may read that"
    if user is not None:
        yield from _grants(config, user)
    for path in credentials(config).values():
        if not path.exists():
            yield f"install -m 0600 /dev/stdin {shlex.quote(str(path))}    # and paste the token"
    for endpoint in config.endpoints.values():
        if endpoint.token is not None and endpoint.token.env is not None:
            credential = f'token = {{ credential = "{endpoint.name}-token" }}'
            yield f"# a service does not see ${endpoint.token.env}; in [endpoint.{endpoint.name}] write {credential}"
    manager = "systemctl --user" if user is None else "systemctl"
    yield f"{manager} daemon-reload"
    yield f"{manager} enable --now hubsync"
    if user is None:
        yield "loginctl enable-linger    # so that it runs while you are not logged in"


def _grants(config: "Config", user: str) -> Iterator[str]:
    """Yield what gives *user* the files that the service needs beside its sources."""
    from hubsync.unit_file import is_hidden, read_files, written_paths

    uid, groups = _ids(user)
    own = {config.service.state_dir, *(target.store_dir for target in config.targets)}
    for path in written_paths(config):
        if not path.exists():
            yield f"install -d -m 0700 -o {shlex.quote(user)} {shlex.quote(str(path))}"
        elif path in own and path.stat().st_uid != uid:
            yield f"chown -R {shlex.quote(user)}: {shlex.quote(str(path))}"
    for path in read_files(config):
        if is_hidden(path):
            yield f"# the service does not see {path}, since it has a /tmp of its own; move that, and install it again"
            continue
        for place, right in _locked(path, uid, groups):
            yield f"setfacl -m u:{shlex.quote(user)}:{right} {shlex.quote(str(place))}    # unless it may read {path}"


def _ids(user: str) -> tuple[int, Collection[int]]:
    """Return the number of *user*, and those of its groups; of none that there is, before it is made."""
    try:
        known = pwd.getpwnam(user)
    except KeyError:
        return -1, ()

    return known.pw_uid, os.getgrouplist(user, known.pw_gid)


def _locked(path: Path, uid: int, groups: Collection[int]) -> Iterator[tuple[Path, str]]:
    """Yield what on the way to *path* does not let the user in by its mode, and the right that is missing there."""
    for place, right, bit in [*((parent, "x", 1) for parent in reversed(path.parents)), (path, "r", 4)]:
        try:
            status = place.stat()
        except OSError:  # not there yet: whoever makes it sees to it
            return
        shift = 6 if status.st_uid == uid else 3 if status.st_gid in groups else 0
        if not status.st_mode >> shift & bit:
            yield place, right
