"""Runs the Hub: in the calling thread until a signal ends it (``serve``), or beside the caller (``LocalHub``)."""

import asyncio
import contextlib
import os
import secrets
import shlex
import signal
import socket
import string
import sys
import threading
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

import hubsync
from hubsync.errors import StateError
from hubsync.localhub.access import Access, Signer
from hubsync.localhub.app import build_app
from hubsync.localhub.calls import Hub
from hubsync.localhub.faults import ActiveFault, Faults
from hubsync.localhub.faulty import ConnectionProtocol
from hubsync.localhub.repos import RepoName, Repos
from hubsync.localhub.settings import Settings
from hubsync.localhub.traffic import Request, Traffic

__all__ = ["ActiveFault", "LocalHub", "Request", "Settings", "serve"]

USER = "localhub"
_TOKEN_LETTERS = string.ascii_letters + string.digits
_STOP_S = 5  # requests in progress get this long to end
_KEEP_ALIVE_S = 60  # longer than clients keep an idle connection, so that none is used as it closes
_START_S = 10.0
_HOOK = """\
#!/bin/sh
PYTHONPATH={packages} exec {python} -P -m hubsync.localhub.prereceive
"""


class LocalHub:
    """A Hub on *port* (0 takes a free one) that serves *directory* from a thread while the context is open.

    *token* is the token that is let in, kept in ``directory/token`` if none is given; *users* are more tokens, each
    with its user's name.
    """

    def __init__(
        self,
        directory: Path,
        port: int = 0,
        *,
        host: str = "127.0.0.1",
        token: str | None = None,
        users: Mapping[str, str] | None = None,
        settings: Settings | None = None,
    ) -> None:
        self.directory = directory.absolute()
        self._address = (host, port)
        self._given_token = token
        self._users = dict(users or {})
        self._traffic = Traffic()
        self._faults = Faults()
        self._settings = settings or Settings()
        self._hub: Hub | None = None
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self.token = ""
        self.url = ""

    @property
    def requests(self) -> tuple[Request, ...]:
        """The requests that were answered, the oldest first; at most 10,000 are remembered."""
        return self._traffic.requests()

    def forget_requests(self) -> None:
        """Begin to count requests anew."""
        self._traffic.forget()

    @property
    def settings(self) -> Settings:
        """How strict the Hub is; may be set while it runs."""
        return self._settings

    @settings.setter
    def settings(self, settings: Settings) -> None:
        self._settings = settings
        if self._hub:
            self._hub.settings = settings

    def add_fault(self, fault: str) -> ActiveFault:
        """Show *fault* (see ``faults``) from now on; returns what counts it; raises UsageError."""
        return self._faults.add(fault)

    def clear_faults(self) -> None:
        """Show no fault any more."""
        self._faults.clear()

    def admit(self, token: str, user: str) -> None:
        """Let *token* in, from now on."""
        self._serving().access.admit(token, user)

    def revoke(self, token: str) -> None:
        """Let *token* in no longer."""
        self._serving().access.revoke(token)

    def protect(self, repo_id: str, *branches: str, repo_type: str = "model") -> None:
        """Let *branches* of a repository, and no others, take nothing but merged pull requests."""
        repos = self._serving().repos
        repos.set_protected(repos.find(RepoName(repo_type, repo_id)), branches)

    def set_default_branch(self, repo_id: str, branch: str, *, repo_type: str = "model") -> None:
        """Let *branch*, which must be there, be what a client gets that asks for none."""
        repos = self._serving().repos
        repos.set_default_branch(repos.find(RepoName(repo_type, repo_id)), branch)

    def start(self) -> None:
        """Serve, until ``stop``; raises StateError if the directory or the port cannot be had."""
        listener, self._server = self._prepare()
        self._thread = threading.Thread(target=self._server.run, args=([listener],), name="localhub", daemon=True)
        self._thread.start()
        if not self._server.is_ready.wait(_START_S):
            raise StateError(f"The local Hub did not start on {self.url}")

    def stop(self) -> None:
        """End the Hub and wait until it is gone."""
        if self._server and self._thread:
            self._faults.clear()
            self._server.should_exit = True
            self._thread.join()

    def run(self) -> None:
        """Serve in this thread, until SIGINT or SIGTERM."""
        listener, self._server = self._prepare()
        _say_hello(self.url, self.token)
        asyncio.run(self._server.serve_until_signal(listener))

    def __enter__(self) -> Self:
        """Start serving."""
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None) -> None:
        """Stop serving."""
        self.stop()

    def _serving(self) -> Hub:
        if self._hub is None:
            raise StateError("The local Hub is not started")
        return self._hub

    def _prepare(self) -> tuple[socket.socket, "_Server"]:
        listener = _listen(self._address)
        try:
            repos = Repos(self.directory)
            repos.start()
            self.token = self._given_token or _load_token(self.directory / "token")
            hooks = _write_hooks(self.directory / "hooks")
        except OSError as exc:
            listener.close()
            raise StateError(f"The local Hub cannot use {self.directory}: {exc.strerror}") from exc
        host, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{port}"
        access = Access({**self._users, self.token: USER})
        self._hub = Hub(repos, access, Signer(), self._traffic, self._faults, self._settings)

        return listener, _Server(_uvicorn_config(self._hub, hooks), self._faults)


def serve(directory: Path, port: int, *, settings: Settings | None = None, faults: Iterable[str] = ()) -> None:
    """Serve *directory* until SIGINT or SIGTERM; says on standard error how to use it."""
    hub = LocalHub(directory, port, settings=settings)
    for fault in faults:
        hub.add_fault(fault)
    hub.run()


class _Server(uvicorn.Server):
    """uvicorn, without its hold on signals, and with a way to know that it serves."""

    def __init__(self, config: uvicorn.Config, faults: Faults) -> None:
        super().__init__(config)
        self._faults = faults
        self.is_ready = threading.Event()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave signals to the caller; uvicorn would raise them again once it has stopped."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start, and say so."""
        await super().startup(sockets)
        self.is_ready.set()

    async def serve_until_signal(self, listener: socket.socket) -> None:
        """Serve until SIGINT or SIGTERM; a second one does not wait for requests in progress."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._take_signal)
        await self.serve([listener])

    def _take_signal(self) -> None:
        self._faults.clear()  # what is stalled would not end by itself
        self.force_exit = self.should_exit
        self.should_exit = True


def _uvicorn_config(hub: Hub, hooks: Path) -> uvicorn.Config:
    return uvicorn.Config(
        build_app(hub, _git_config({"core.hooksPath": str(hooks)})),
        access_log=False,
        http=ConnectionProtocol,
        lifespan="off",
        log_config=None,
        loop="asyncio",
        server_header=False,
        timeout_graceful_shutdown=_STOP_S,
        timeout_keep_alive=_KEEP_ALIVE_S,
        ws="none",
    )


def _listen(address: tuple[str, int]) -> socket.socket:
    host, port = address
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server(address, family=family, backlog=1024)
    except OSError as exc:
        raise StateError(
            f"The local Hub cannot listen on {host}:{port}: {exc.strerror}", hint="Choose another port."
        ) from exc
    # Inherited by every connection. asyncio sets it on sockets only that name TCP, which these do not: without it an
    # answer's body waits 40 ms for the acknowledgement of its headers.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    return listener


def _load_token(path: Path) -> str:
    """Return the token kept at *path*, made now if there is none."""
    try:
        return path.read_text().strip()
    except FileNotFoundError:
        token = "hf_" + "".join(secrets.choice(_TOKEN_LETTERS) for _ in range(34))
    new = path.with_suffix(".new")
    new.unlink(missing_ok=True)
    with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"{token}\n")
    new.rename(path)

    return token


def _write_hooks(directory: Path) -> Path:
    """Write the hook that git runs on every push, for this interpreter."""
    directory.mkdir(exist_ok=True)
    packages = Path(hubsync.__file__).parents[1]
    new = directory / "pre-receive.new"
    new.write_text(_HOOK.format(packages=shlex.quote(str(packages)), python=shlex.quote(sys.executable)))
    new.chmod(0o755)
    new.rename(directory / "pre-receive")

    return directory


def _git_config(settings: Mapping[str, str]) -> dict[str, str]:
    """Return *settings* as variables that git reads."""
    variables = {"GIT_CONFIG_COUNT": str(len(settings))}
    for number, (name, value) in enumerate(settings.items()):
        variables |= {f"GIT_CONFIG_KEY_{number}": name, f"GIT_CONFIG_VALUE_{number}": value}

    return variables


def _say_hello(url: str, token: str) -> None:
    sys.stderr.write(f"Local Hub on {url}\n\n  export HF_ENDPOINT={url}\n  export HF_TOKEN={token}\n")
    sys.stderr.write("\nCtrl-C ends it.\n")
    sys.stderr.flush()
