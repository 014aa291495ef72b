"""An identity is kept as it was read, whatever numbers a file system has."""

import os
from pathlib import Path

import pytest

from hubsync.store.ledger import Ledger
from hubsync.store.objects import PinKind
from hubsync.watch.entry import Entry, Identity

_TOP = 1 << 63


def status(ino: int, mtime_ns: int, ctime_ns: int = 5) -> os.stat_result:
    facts = {"st_mtime_ns": mtime_ns, "st_ctime_ns": ctime_ns}
    return os.stat_result((0o100644, ino, 7, 1, 0, 0, 12, 0, 0, 0), facts)


@pytest.mark.parametrize("ino", [1, _TOP - 1, _TOP, _TOP + 2, 2 * _TOP - 1])
@pytest.mark.parametrize("mtime_ns", [-2 * _TOP, -_TOP, 0, _TOP, 4 * _TOP + 3])
def test_any_number_is_remembered(tmp_path: Path, ino: int, mtime_ns: int) -> None:
    """Inode numbers have 64 bits without a sign (overlayfs uses the highest), and some file systems take any year."""
    identity = Identity.of(status(ino, mtime_ns))
    ledger = Ledger(tmp_path / "ledger.sqlite")
    ledger.open()
    ledger.record_pin("0" * 64, PinKind.LINK, identity)

    assert (PinKind.LINK, identity) == ledger.pin("0" * 64)
    assert Entry.of("a", status(ino, mtime_ns)).identity == identity
    assert Identity.of(status(ino, mtime_ns + 1)) != identity
    ledger.close()
