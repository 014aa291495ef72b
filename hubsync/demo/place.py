"""Owns the demo's own directory: where it lies, the config in it, and its removal. It never writes into the reader's."""

import contextlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from importlib import resources
from pathlib import Path

from msgspec import Struct

from hubsync.errors import HubsyncError
from hubsync.monitor.text import format_bytes

_HERE = ".demo"  # below the current directory, as in config/demo.toml
_SPARE_BYTES = 2_000_000_000
_PORTS = {"first": 17871, "second": 17872}  # of the Hubs in demo.toml
_COPIES = 3  # one on each Hub, and one that is downloaded from them in turn


class Place(Struct, frozen=True):
    """The directories of one demo; *source* is the reader's own, or lies in *directory* like all else."""

    directory: Path
    source: Path

    @property
    def config(self) -> Path:
        """The config that the daemon is started with."""
        return self.directory / "demo.toml"

    @property
    def state(self) -> Path:
        """The daemon's state directory."""
        return self.directory / "state"

    @property
    def log(self) -> Path:
        """What the daemon said, one JSON object per line."""
        return self.directory / "hubsync.jsonl"

    def hub(self, name: str) -> Path:
        """Return where the Hub *name* keeps its repositories."""
        return self.directory / name

    def remove(self) -> None:
        """Remove all that the demo made."""
        shutil.rmtree(self.directory, ignore_errors=True)
        if self.directory.parent.name == _HERE:
            with contextlib.suppress(OSError):  # not empty: a demo that was told to keep its files
                self.directory.parent.rmdir()


def make_place(source: Path | None, needed_bytes: int) -> Place:
    """Make a fresh directory, below ``.demo`` if that can be written and lies outside *source*.

    Raises:
        HubsyncError: there is no room for what the demo will write.
    """
    source = source.absolute() if source else None
    parent = _choose_parent(source)
    directory = Path(tempfile.mkdtemp(prefix="run-" if parent.name == _HERE else "hubsync-demo-", dir=parent))
    free = shutil.disk_usage(directory).free
    wanted = _COPIES * needed_bytes + _SPARE_BYTES
    if free < wanted:
        directory.rmdir()
        raise HubsyncError(
            f"the demo needs {format_bytes(wanted)} in {parent}, and {format_bytes(free)} are free",
            hint="both Hubs and a download are on this machine; name a smaller directory, or start it on a larger disk",
        )

    return Place(directory, source or directory / "run")


def write_config(place: Place, urls: Mapping[str, str]) -> None:
    """Write demo.toml with the addresses of the Hubs and the paths of *place*."""
    text = template_text()
    for name, url in urls.items():
        text = _fill(text, default_url(name), url)
    text = _fill(text, json.dumps("../.demo/run"), json.dumps(str(place.source), ensure_ascii=False))
    text = _fill(text, '"../.demo/', '"')
    try:
        place.config.write_text(text, encoding="utf-8")
    except UnicodeEncodeError as exc:
        raise HubsyncError("the path of the directory is not UTF-8", hint="name it by a symbolic link") from exc


def template_text() -> str:
    """Return config/demo.toml, of which the package has a copy."""
    return resources.files("hubsync.demo").joinpath("demo.toml").read_text("utf-8")


def default_url(name: str) -> str:
    """Return the address that the template has for the Hub *name*."""
    return f"http://127.0.0.1:{_PORTS[name]}"


def _fill(text: str, old: str, new: str) -> str:
    if old not in text:
        raise HubsyncError(f"demo.toml does not have {old}")

    return text.replace(old, new)


def _choose_parent(source: Path | None) -> Path:
    here = Path.cwd() / _HERE
    if source is None or not here.resolve().is_relative_to(source.resolve()):
        try:
            here.mkdir(exist_ok=True)
            tempfile.TemporaryFile(dir=here).close()
        except OSError:
            pass
        else:
            return here

    return Path(tempfile.gettempdir())
