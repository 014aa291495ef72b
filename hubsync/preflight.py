"""Tries what a config depends on before it hurts: tools, sources, watch limits, links, disk, tokens, repositories."""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from threading import Event

from msgspec import Struct

from hubsync.config.model import Config, Mirror, Target
from hubsync.errors import (
    DiskFullError,
    FileChangedError,
    FileUnreadableError,
    HubsyncError,
    MirrorError,
    StateError,
    ToolMissingError,
    read_os_error,
)
from hubsync.mirror.hub import Hub
from hubsync.mirror.hub_facts import Visibility
from hubsync.mirror.remote import Remote
from hubsync.mirror.token import Tokens, find_exposed_tokens
from hubsync.mirror.xet import describe_transfer
from hubsync.monitor.text import format_bytes, format_count
from hubsync.pipeline.room import find_lack
from hubsync.store.git import Git
from hubsync.store.hashing import PRESSURE, read_pressure
from hubsync.store.objects import Objects
from hubsync.store.private import expect_private, user_name
from hubsync.store.reserve import count_inodes
from hubsync.store.tools import TOOLS, expect_recent
from hubsync.units import target_rules
from hubsync.watch.beneath import open_entry
from hubsync.watch.entry import Entry
from hubsync.watch.inventory import Inventory, take_inventory
from hubsync.watch.mounts import is_volatile, network_file_system
from hubsync.watch.observer import find_limit

_READ_SAMPLE = 200
_OTHERS_READ = 0o004


class Finding(Struct, frozen=True):
    """One thing that was tried; without an ``error_kind`` it is well."""

    what: str
    said: str
    error_kind: str = ""
    hint: str = ""
    exit_code: int = 1


def check_online(config: Config, tokens: Tokens) -> Iterator[Finding]:
    """Yield what was found, thing by thing."""
    yield from _check_tools()
    yield from _check_state(config)
    yield from check_pressure(config.service.pressure.limits())
    yield from _check_tokens(config, tokens)
    for target in config.targets:
        if target.store_dir is not None:
            yield _check_room(config, f"{target.name}: store", target.store_dir)
        yield from _guarded(f"{target.name}: source", lambda t=target: _check_source(config, t))
        for mirror in target.mirrors:
            name = f"{target.name} → {mirror.name}"
            yield from _guarded(name, lambda m=mirror, n=name: _check_mirror(config, m, tokens, n))
            sent = f"{name}: large files"
            yield from _guarded(sent, lambda m=mirror, n=sent: _check_transfer(config, m, n))


def _guarded(what: str, work: object) -> Iterator[Finding]:
    try:
        yield from work()  # type: ignore[operator]
    except (HubsyncError, OSError) as exc:
        error = read_os_error(exc) if isinstance(exc, OSError) else exc
        code = error.status if isinstance(error, MirrorError) else error.exit_code
        yield Finding(what, str(error), error.error_kind, error.hint, code)


def _check_tools() -> Iterator[Finding]:
    for tool in TOOLS:
        try:
            said = expect_recent(tool)
        except ToolMissingError as exc:
            yield Finding(tool, str(exc), exc.error_kind, exc.hint, exc.exit_code)
            continue
        silent = Finding(tool, "does not say its version", "tool", f"see what `{tool} version` says", 78)
        yield Finding(tool, said) if said else silent


def _check_state(config: Config) -> Iterator[Finding]:
    directory = config.service.state_dir
    try:
        if directory.exists():
            expect_private(directory)
    except StateError as exc:
        yield Finding("state", str(exc), exc.error_kind, exc.hint, exc.exit_code)
        return
    existing = _existing(directory)
    if not os.access(existing, os.W_OK):
        yield Finding("state", f"{existing} cannot be written", "local_io", "set service.state_dir", 73)
        return
    yield _check_room(config, "state", directory)
    if is_volatile(directory):
        yield Finding("state: disk", f"{directory} is in memory: what is queued does not outlast a restart of the machine")


def _check_room(config: Config, what: str, directory: Path) -> Finding:
    """Return how much room there is for *directory*, or what is so scarce that capture would pause."""
    existing = _existing(directory)
    free = shutil.disk_usage(existing).free
    lack = find_lack(free, count_inodes(existing), config.service.min_free_bytes)
    if lack is not None:
        return Finding(what, f"{directory}, {lack}", "disk_full", lack.hint, DiskFullError.exit_code)
    return Finding(what, f"{directory}, {format_bytes(free)} free")


def _existing(directory: Path) -> Path:
    return next(parent for parent in (directory, *directory.parents) if parent.exists())


def check_pressure(limits: Mapping[str, float], directory: Path = PRESSURE) -> Iterator[Finding]:
    """Yield what of *limits* the kernel says nothing about."""
    unknown = [name for name in limits if read_pressure(directory / name) is None]
    if unknown:
        said = f"this kernel does not say {' and '.join(unknown)} pressure: hashing does not slow down for it"
        yield Finding("pressure", said, "tool", "start it with psi=1, or set service.read_rate")


def _check_tokens(config: Config, tokens: Tokens) -> Iterator[Finding]:
    for name, path in find_exposed_tokens(config, tokens).items():
        yield Finding(
            f"endpoint {name}: token", f"every user of this machine can read {path}", "exposed", f"chmod 600 {path}"
        )


def _check_source(config: Config, target: Target) -> Iterator[Finding]:
    inventory = take_inventory(target.source, target_rules(target))
    size = sum(entry.identity.size for entry in inventory.entries.values())
    what = f"{target.name}: source"
    yield Finding(what, f"{format_count(len(inventory.entries), 'file')}, {format_bytes(size)}")
    if inventory.unreadable:
        yield Finding(what, f"cannot read {min(inventory.unreadable)}", "local_io", _READ_HINT)
    yield from _check_readable(target, inventory)
    if kind := network_file_system(target.source):
        every = target.inventory_every_s
        yield Finding(what, f"on {kind}: changes are seen by inventory only, each {every:.0f} s")
    elif (limit := find_limit(errno.ENOSPC))[0]:
        name, allowed = limit
        directories = len({path.rpartition("/")[0] for path in inventory.entries})
        hint = f"sysctl {name}={max(524288, directories * 2)}"
        few = directories > allowed
        yield Finding(what, f"{directories} directories to watch, {allowed} allowed", "watch_limit" if few else "",
                      hint if few else "")  # fmt: skip
    yield from _check_pins(config, target)


_READ_HINT = "run hubsync as the user that writes the files"


def _check_readable(target: Target, inventory: Inventory) -> Iterator[Finding]:
    """Try the files that not everybody may read, which are all that safetensors writes, and some others."""
    what = f"{target.name}: source"
    restricted = [entry for entry in inventory.entries.values() if not entry.mode & _OTHERS_READ]
    locked = [entry.path for entry in restricted if not _is_readable(target, entry)]
    if locked:
        yield Finding(
            what, f"cannot read {format_count(len(locked), 'file')}, such as {min(locked)}", "local_io", _READ_HINT
        )
        return
    for entry in sorted(inventory.entries.values())[:_READ_SAMPLE]:
        os.close(open_entry(target.source, entry))
    owner = target.source.stat().st_uid
    if os.geteuid() not in {0, owner}:
        said = f"belongs to {user_name(owner)}: what safetensors writes there, only {user_name(owner)} can read"
        yield Finding(what, said, hint=_READ_HINT)


def _is_readable(target: Target, entry: Entry) -> bool:
    try:
        os.close(open_entry(target.source, entry))
    except FileUnreadableError:
        return False
    except FileChangedError:
        return True  # gone meanwhile

    return True


def _check_pins(config: Config, target: Target) -> Iterator[Finding]:
    """Try on a file of our own, beside nothing of the user's, how captured content would be kept."""
    base = target.store_dir or config.service.state_dir
    existing = _existing(base)
    same, owner = existing.stat().st_dev == target.source.stat().st_dev, target.source.stat().st_uid
    what = f"{target.name}: pins"
    with tempfile.TemporaryDirectory(dir=existing) as scratch:
        sample = Path(scratch) / "sample"
        sample.write_bytes(b"hubsync")
        objects = Objects(Path(scratch))
        objects.open()
        fd = os.open(sample, os.O_RDONLY)
        try:
            kind = objects.pin(fd, "auto" if same else "copy").kind.value
        finally:
            os.close(fd)
    if kind == "link" and os.geteuid() not in {0, owner}:
        yield Finding(
            what, f"by copy: only {user_name(owner)} may hard-link the files of {user_name(owner)}", hint=_READ_HINT
        )
    elif kind == "copy":
        yield Finding(what, "by copy: queued files take their size in disk space",
                      hint="set store_dir to a directory on the file system of the source")  # fmt: skip
    else:
        yield Finding(what, f"by {kind}: queued files take no extra disk space")


def _check_transfer(config: Config, mirror: Mirror, what: str) -> Iterator[Finding]:
    yield Finding(what, f"sent {describe_transfer(mirror, config.endpoints[mirror.endpoint])}")


def _check_mirror(config: Config, mirror: Mirror, tokens: Tokens, what: str) -> Iterator[Finding]:
    endpoint = config.endpoints[mirror.endpoint]
    signed_in = "with a token" if tokens.read(endpoint) else "without a token"
    visibility = Hub(endpoint, tokens).look(mirror).visibility
    if visibility is Visibility.MISSING:
        kind = "private" if mirror.private else "public"
        yield Finding(what, f"does not exist yet; would be created {kind} ({signed_in})")
        return
    if visibility is Visibility.PUBLIC and mirror.private:
        yield Finding(what, "is public, but the config says private", "forbidden",
                      "make it private on the Hub, or set private = false on this mirror", 77)  # fmt: skip
        return
    with tempfile.TemporaryDirectory() as scratch:
        git = Git(Path(scratch) / "probe.git")
        git.open()
        remote = Remote(git, Objects(git.git_dir), mirror, endpoint, tokens, Event())
        head = remote.read_heads([mirror.branch])[mirror.branch]
    where = f"at {head[:9]}" if head else "is empty"
    yield Finding(what, f"{visibility.value}, branch {mirror.branch} {where} ({signed_in})")
