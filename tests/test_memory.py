"""What hubsync holds in memory grows slowly with the number of files, whatever it does with them."""

import gc
import weakref
from pathlib import Path

from support.running import Daemon, endpoint, write_config

from hubsync.localhub import LocalHub
from hubsync.memory import give_back

FEW, MANY = 50, 2550
MOST_BYTES_PER_FILE = 3400  # 2,400 are needed; 4,500 were, when receipts and publications held everything at once


def test_a_first_publication_holds_little_of_each_file(tmp_path: Path) -> None:
    """From the first inventory to the last receipt, of 2,500 small files."""
    with LocalHub(tmp_path / "hub") as hub:
        few, many = (_peak_bytes(hub, tmp_path / str(count), count) for count in (FEW, MANY))

    assert (many - few) / (MANY - FEW) < MOST_BYTES_PER_FILE


def _peak_bytes(hub: LocalHub, directory: Path, count: int) -> int:
    """Return the most memory that a daemon was given while it published *count* files and made receipts of them."""
    for number in range(count):
        file = directory / "run" / f"folder-{number // 200:03}" / f"file-{number % 200:03}.txt"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{number}\n")
    config = write_config(directory / "hubsync.toml", directory / "run", {endpoint(hub): f"acme/x{count}"})
    config.write_text(config.read_text().replace("[log]", '[log]\nlevel = "debug"', 1))
    with Daemon(config, "env") as daemon:  # by itself: what is forked shares memory with what it came from
        daemon.wait_for("receipt.made", files=count)
        status = Path(f"/proc/{daemon.process.pid}/status").read_text()
        assert 0 == daemon.stop()

    return next(int(line.split()[1]) << 10 for line in status.splitlines() if line.startswith("VmHWM:"))


class Ring:
    """Something that holds itself."""

    def __init__(self) -> None:
        self.itself = self


def test_what_hangs_in_a_circle_is_given_back_too() -> None:
    """Python looks for it only after so many new objects that a service which makes few of them would keep megabytes."""
    gc.disable()
    try:
        ring = weakref.ref(Ring())
        give_back()

        assert ring() is None
    finally:
        gc.enable()


def test_what_is_old_when_it_becomes_a_circle_is_given_back_too() -> None:
    """What lived through two collections is looked at no more by the next ones but a whole one."""
    give_back()
    ring = Ring()
    gc.collect()
    gone = weakref.ref(ring)

    del ring
    give_back()

    assert gone() is None
