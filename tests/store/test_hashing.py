"""What hashing may cost, over all threads and processes."""

import ctypes
import hashlib
import mmap
import os
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path

import pytest

from hubsync.config.rates import parse_rate
from hubsync.preflight import check_pressure
from hubsync.store.buffer import new_buffer
from hubsync.store.hashing import PRESSED_BYTES_PER_S, Costs, Hashing, is_pressed, read_pressure

_HOLD = """
import sys, time
from hubsync.store.hashing import Hashing
with Hashing(fd=int(sys.argv[1])).turn():
    print("has it", flush=True)
    time.sleep(60)
"""
_SOME = "some avg10={} avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00 avg300=0.00 total=1\n"


@pytest.mark.parametrize("size", [0, 1, 1 << 10, 1 << 20, 4 << 20])
def test_bytes_are_read_to_the_start_of_a_page(size: int) -> None:
    """Where the kernel copies four times as fast on some processors; a ``bytearray`` begins 16 bytes behind it."""
    buffer = new_buffer(size)
    where = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if size else 0

    assert len(buffer) == size
    assert where % mmap.PAGESIZE == 0


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_no_more_threads_hash_at_a_time_than_are_allowed(threads: int) -> None:
    """All of them at once, and never one more, whatever process they are of."""
    own = Hashing(Costs(threads))
    child = Hashing(fd=own.fd)  # opened anew, as in another process
    lock = threading.Lock()
    now, most = 0, 0

    def work(hashing: Hashing) -> None:
        nonlocal now, most
        for _ in range(20):
            with hashing.turn():
                with lock:
                    now += 1
                    most = max(most, now)
                time.sleep(0.002)
                with lock:
                    now -= 1

    workers = [threading.Thread(target=work, args=(one,)) for one in (own, child) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()

    assert (threads, 0) == (most, now)


def test_the_turns_of_a_killed_process_are_free_again() -> None:
    """A lock belongs to an open file, which the kernel closes."""
    hashing = Hashing(Costs(1))
    argv = [sys.executable, "-c", _HOLD, str(hashing.fd)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, pass_fds=(hashing.fd,), text=True) as child:
        assert child.stdout is not None
        assert "has it\n" == child.stdout.readline()
        child.kill()

    with hashing.turn():
        assert 1 == hashing.threads


def test_a_digest_is_that_of_the_bytes(tmp_path: Path) -> None:
    """Whole, or up to an end; pieces and a copy are what was read."""
    content = os.urandom(2_500_000)
    (tmp_path / "file").write_bytes(content)
    pieces: list[bytes] = []
    with ExitStack() as stack:
        fd = stack.enter_context((tmp_path / "file").open("rb")).fileno()
        copy_fd = stack.enter_context((tmp_path / "copy").open("wb", buffering=0)).fileno()
        hashing = Hashing()
        whole = hashing.digest_file(fd, copy_fd, lambda piece: pieces.append(bytes(piece)))
        part = hashing.digest_file(fd, end=1_500_000)
        with pytest.raises(OSError, match="cut short"):
            hashing.digest_file(fd, end=2_500_001)

    assert [hashlib.sha256(text).hexdigest() for text in (content, content[:1_500_000])] == [whole, part]
    assert [content, content] == [b"".join(pieces), (tmp_path / "copy").read_bytes()]


def test_all_readers_share_one_rate(tmp_path: Path) -> None:
    """Two that read 1 MB each at 4 MB/s together take no less than what that takes."""
    (tmp_path / "file").write_bytes(bytes(1_000_000))
    own = Hashing(Costs(rate=parse_rate("4MB/s")))
    began = time.monotonic()
    with (tmp_path / "file").open("rb") as file:
        readers = [
            threading.Thread(target=hashing.digest_file, args=(file.fileno(),)) for hashing in (own, Hashing(fd=own.fd))
        ]
        for reader in readers:
            reader.start()
        for reader in readers:
            reader.join()

    assert time.monotonic() - began > 0.4
    own.declare(Costs())
    assert 1_000_000 == own.take(1_000_000)


def test_a_pressed_machine_slows_hashing_down_and_stops_it_not(tmp_path: Path) -> None:
    """Only what is declared is looked at; a kernel that does not say is not pressed."""
    (tmp_path / "cpu").write_text(_SOME.format("61.50"))
    (tmp_path / "io").write_text(_SOME.format("0.00"))

    assert 61.5 == read_pressure(tmp_path / "cpu")
    assert is_pressed({"io": 10, "cpu": 60}, tmp_path)
    assert not is_pressed({"io": 10, "cpu": 62}, tmp_path)
    assert not is_pressed({"memory": 1}, tmp_path)
    assert not is_pressed({}, tmp_path)

    pressed = Hashing(Costs(pressure={"cpu": -1.0}))  # any machine that says it is, is
    assert PRESSED_BYTES_PER_S // 20 == pressed.take(1 << 20) or read_pressure(Path("/proc/pressure/cpu")) is None


def test_a_check_names_the_pressure_that_a_kernel_does_not_tell(tmp_path: Path) -> None:
    """Who declares a limit that cannot be followed hears of it beforehand."""
    (tmp_path / "cpu").write_text(_SOME.format("61.50"))

    assert [] == list(check_pressure({"cpu": 60}, tmp_path))
    (found,) = check_pressure({"cpu": 60, "io": 10, "memory": 5}, tmp_path)
    assert "io and memory pressure" in found.said
    assert "tool" == found.error_kind
