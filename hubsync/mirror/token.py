"""Owns tokens: where they come from, and how git gets one that stands in no argv, environment, config or file."""

import base64
import contextlib
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from hubsync.config.model import Config, Endpoint, TokenSource
from hubsync.config.regular import open_regular
from hubsync.errors import MirrorError
from hubsync.monitor.log import register_secret
from hubsync.store.process import read_command
from hubsync.watch.entry import Identity

_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")
_HIDDEN = frozenset({*_NAMES, "NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC"})
_COMMAND_TIMEOUT_S = 30.0
_OTHERS_READ, _OTHERS_ENTER = 0o004, 0o001
_USER = "hf_user"  # the name that huggingface_hub gives to git; the Hub looks at the token only


class Tokens:
    """Reads the tokens of endpoints, anew at each use, so that a replaced file takes effect at once."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment

    def read(self, endpoint: Endpoint) -> str | None:
        """Return the endpoint's token, or ``None`` if it has none.

        Raises:
            MirrorError: the declared source cannot be read or is empty (``auth``).
        """
        source = endpoint.token
        token = self._default() if source is None else self._declared(endpoint, source)
        if token:
            register_secret(token)

        return token

    def identity(self, endpoint: Endpoint) -> Identity | None:
        """Return the identity of the file that holds the endpoint's token; ``None`` if none can be seen.

        It costs no more than a ``stat``; what the environment or a command gives changes unseen.
        """
        path = self._default_path() if endpoint.token is None else self._path(endpoint.token)
        try:
            return None if path is None else Identity.of(path.stat())
        except OSError:
            return None

    def mark(self, endpoint: Endpoint) -> int:
        """Return what changes, within this process, when the endpoint's token does; a declared command is run for it."""
        try:
            return hash(self.read(endpoint))
        except MirrorError:  # it cannot be read
            return 0

    def find_exposed(self, endpoint: Endpoint) -> Path | None:
        """Return the file that holds the endpoint's token if any user of this machine can read it."""
        path = self._default_path() if endpoint.token is None else self._path(endpoint.token)
        try:
            file = None if path is None else path.resolve(strict=True)
            if file is None or not file.is_file() or not file.stat().st_mode & _OTHERS_READ:
                return None
            return path if all(parent.stat().st_mode & _OTHERS_ENTER for parent in file.parents) else None
        except OSError:
            return None

    def describe(self, endpoint: Endpoint) -> str:
        """Return where the endpoint's token comes from, for a person."""
        source = endpoint.token
        path = self._default_path() if source is None else self._path(source)
        if source is None and any(self._environment.get(name, "").strip() for name in _NAMES):
            place = "the environment"
        elif path is not None:
            place = str(path)
        elif source is not None and source.env is not None:
            place = f"${source.env}"
        else:
            place = "the token command"

        return f"endpoint {endpoint.name}: {place}"

    def _declared(self, endpoint: Endpoint, source: TokenSource) -> str:
        try:
            token = self._fetch(source).strip()
        except OSError as exc:
            raise _unreadable(endpoint, _why_not(exc)) from exc
        except UnicodeDecodeError as exc:
            raise _unreadable(endpoint, "it is no text") from exc
        if not token:
            raise _unreadable(endpoint, "it is empty")
        if not _is_sendable(token):
            raise _unreadable(endpoint, "it holds white space, or what is no letter of ASCII")

        return token

    def _fetch(self, source: TokenSource) -> str:
        path = self._path(source)
        if path is not None:
            return _read_file(path)
        if source.env is not None:
            return self._environment.get(source.env, "")
        finished = read_command(tuple(source.command or ()), self._for_command(), timeout_s=_COMMAND_TIMEOUT_S)
        if finished.returncode != 0:
            raise OSError(f"the token command exited with {finished.returncode}")

        return finished.stdout.decode()

    def _for_command(self) -> dict[str, str]:
        """Return the environment of a token command: it may need much, but no other token, and not our manager's ear."""
        return {name: value for name, value in self._environment.items() if name not in _HIDDEN}

    def _path(self, source: TokenSource) -> Path | None:
        if source.file is not None:
            return Path(source.file).expanduser()
        if source.credential is not None:
            return Path(self._environment.get("CREDENTIALS_DIRECTORY", "/nonexistent")) / source.credential

        return None

    def _default(self) -> str | None:
        """Return what ``hf auth login`` or the environment gives."""
        for name in _NAMES:
            if token := self._environment.get(name, "").strip():
                return token if _is_sendable(token) else None
        try:
            token = _read_file(self._default_path()).strip()
        except (OSError, UnicodeDecodeError):
            return None

        return token if _is_sendable(token) else None

    def _default_path(self) -> Path:
        cache = self._environment.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")  # noqa: PTH111 - a string
        home = self._environment.get("HF_HOME") or f"{cache}/huggingface"
        return Path(self._environment.get("HF_TOKEN_PATH") or f"{home}/token").expanduser()


def _read_file(path: Path) -> str:
    with open(path, opener=open_regular) as file:
        return file.read()


def _why_not(exc: OSError) -> str:
    return f"{exc.filename}: {exc.strerror}" if exc.filename else str(exc)


def _is_sendable(token: str) -> bool:
    """Tell whether *token* can stand in a header."""
    return token.isascii() and token.isprintable() and " " not in token and token != ""


def find_exposed_tokens(config: Config, tokens: Tokens) -> dict[str, Path]:
    """Return, for each endpoint that a mirror uses, the token file that any user of this machine can read."""
    used = sorted({mirror.endpoint for target in config.targets for mirror in target.mirrors})
    found = {name: tokens.find_exposed(config.endpoints[name]) for name in used}

    return {name: path for name, path in found.items() if path is not None}


def basic_authorization(token: str) -> str:
    """Return the header that a server of git and LFS takes *token* in."""
    return "Basic " + base64.b64encode(f"{_USER}:{token}".encode()).decode()


class Credential(Struct, frozen=True):
    """How a command of git gets a token: by this git *config*, from descriptors to pass on to it."""

    config: Mapping[str, str]
    fds: tuple[int, ...] = ()


@contextlib.contextmanager
def hand_over(token: str | None, url: str, *, to_lfs: bool) -> Iterator[Credential]:
    """Yield what lets git sign in with *token* at *url*'s host, and at no other. It lies in memory of our children alone.

    git reads it as a part of its config: a helper would be two programs for each command, and asked only after a request
    without the token was refused. git-lfs, which writes down what it knows of git when it fails, asks a helper.
    """
    no_helper = {"credential.helper": ""}
    if token is None:
        yield Credential(no_helper)
        return
    fd = os.memfd_create("hubsync-credential")
    place = f"/proc/self/fd/{fd}"
    try:
        if to_lfs:
            os.write(fd, f"username={_USER}\npassword={token}\n".encode())
            helper = {f"credential.{_origin(url)}.helper": _helper(place)}
            yield Credential({**no_helper, **helper}, (fd,))
        else:
            header = f"Authorization: {basic_authorization(token)}"
            os.write(fd, f'[http "{_origin(url)}/"]\n\textraHeader = "{header}"\n'.encode())
            yield Credential({**no_helper, "include.path": place}, (fd,))
    finally:
        os.close(fd)


def _helper(place: str) -> str:
    """Return a credential helper that tells what lies at *place*, until that was refused.

    git erases a refused credential; the answer is gone then, so that git-lfs 3.3 does not ask for ever
    (https://github.com/git-lfs/git-lfs/pull/6204).
    """
    # The shell alone: git-lfs asks several times for each command, and "cat" would be a process more.
    tell = f'while IFS= read -r line; do printf "%s\\n" "$line"; done < {place}'
    return f'!f() {{ case "$1" in get) {tell};; erase) : > {place};; esac; }}; f'


def _origin(url: str) -> str:
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0]}"


def _unreadable(endpoint: Endpoint, why: str) -> MirrorError:
    is_file = endpoint.token is not None and endpoint.token.file is not None
    return MirrorError(
        f"the token of endpoint {endpoint.name!r} cannot be read: {why}",
        error_kind="auth",
        retryable=False,
        hint=f"mend [endpoint.{endpoint.name}] token{': name a regular file that hubsync may read' * is_file}",
    )
