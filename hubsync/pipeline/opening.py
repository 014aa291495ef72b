"""Makes what a pipeline works on from a target of the config: its store, and what captures its files."""

from pathlib import Path

from hubsync.config.model import Target
from hubsync.store.capture import Capturer
from hubsync.store.private import make_private
from hubsync.store.route import RouteRules
from hubsync.store.secrets import SecretRules
from hubsync.store.snapshot import Store


def make_capturer(target: Target, store: Store, kind: type[Capturer] = Capturer) -> Capturer:
    """Return what captures the files of *target*, by its rules."""
    routes = RouteRules(target.lfs.patterns, target.lfs.threshold_bytes)
    secrets = SecretRules(target.secrets, target.secrets_allow)

    return kind(target.source, store.objects, routes, target.capture, secrets)


def store_directory(target: Target, state_dir: Path) -> Path:
    """Return where the store of *target* lies."""
    return (target.store_dir or state_dir / "targets") / target.name


def open_store(target: Target, state_dir: Path, *, inherit: tuple[int, ...] = ()) -> Store:
    """Open the store of *target*: in its ``store_dir``, else below the state directory."""
    if target.store_dir is None:
        make_private(state_dir / "targets")  # no link on the way is followed
    store = Store(store_directory(target, state_dir), target.source, inherit=inherit)
    store.open()

    return store
