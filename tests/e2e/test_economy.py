"""What hubsync takes: bytes read, programs started, writes and wake-ups, as the kernel counts them. No clock is asked."""

import hashlib
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from outside import strace, wait_until
from support.cached import cached_share
from support.running import ROOT, Daemon, endpoint, hubsync, write_checkpoint, write_config, write_safetensors

from hubsync.localhub import LocalHub

_READS = "read,readv,pread64,preadv,preadv2,sendfile,splice,copy_file_range"
_AT_REST_S = 5.0


def _traced(trace: Path, calls: str, config: Path) -> list[str]:
    """Run ``hubsync once`` and return its system *calls* and those of its children, without the data."""
    command = [*strace(trace, calls), "-s", "0", sys.executable, "-m", "hubsync", "once", "-c", str(config)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)

    return trace.read_text(errors="replace").splitlines()


def _count_read(calls: list[str], place: Path) -> int:
    """Return how many bytes of files below *place* were read; a call that another one interrupted takes two lines."""
    begun: set[str] = set()
    count = 0
    for call in calls:
        thread, _, rest = call.partition(" ")
        if f"<{place}/" in rest.partition(", ")[0]:
            begun.add(thread)
        result = re.search(r"= (\d+)$", rest)
        if thread in begun and (result or not rest.endswith("<unfinished ...>")):
            begun.discard(thread)
            count += int(result[1]) if result else 0

    return count


def test_a_byte_is_read_once_to_hash_it_and_once_for_each_mirror(
    tmp_path: Path, source: Path, state: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """Behind a hard link it may change, so it is checked as it is sent, on its way; nothing else reads it."""
    size = 8_000_000
    write_safetensors(source / "model.safetensors", size)
    config = write_config(
        tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x", endpoint(other_hub): "acme/y"}, capture='"link"'
    )

    calls = _traced(tmp_path / "trace", _READS, config)

    hashed = _count_read(calls, source)
    sent = _count_read(calls, state / "targets" / "run" / "store.git" / "lfs")
    assert size <= hashed < 1.1 * size
    assert 2 * size <= sent < 2.1 * size


def test_what_every_mirror_has_leaves_the_page_cache(hub: LocalHub) -> None:
    """There the data of the training belongs. What a mirror still lacks stays, to be read once for all of them."""
    nobody = 'url = "http://127.0.0.1:9"\ntoken = { env = "HOME" }'
    with tempfile.TemporaryDirectory(dir="/var/tmp") as name:
        place, source = Path(name), Path(name, "source")
        source.mkdir()
        first, second, third = (source / f"{number}.safetensors" for number in (1, 2, 3))
        config = write_config(place / "hubsync.toml", source, {endpoint(hub): "acme/x", nobody: "acme/y"})
        write_safetensors(first, 2_000_000)
        with Daemon(config) as daemon:
            daemon.wait_for("mirror.published")
            daemon.wait_for("heartbeat", count=2)
            assert cached_share(first) > 0.99

            text = config.read_text().replace(', "m1:acme/y"', "")
            config.write_text(text)
            write_safetensors(place / "later", 4_000_000)
            hub.add_fault(f"PUT /_lfs/models/acme/x/{hashlib.sha256((place / 'later').read_bytes()).hexdigest()}* stall")
            write_safetensors(second, 200_000)
            (place / "later").rename(third)
            hubsync(config, "reload")
            wait_until(lambda: cached_share(second) < 0.01, "what was sent leaves the cache")
            assert cached_share(third) > 0.99, "it is under way"
            hub.clear_faults()
            wait_until(lambda: cached_share(third) < 0.01, "the last one leaves it too")


def test_programs_are_started_by_the_batch(tmp_path: Path, source: Path, config: Path) -> None:
    """As many for 300 files as for 30, fewer for one of them, and next to none for nothing."""
    counts = []
    for number in (30, 300):
        (source / f"d{number}").mkdir()
        for each in range(number):
            (source / f"d{number}" / f"{each}.txt").write_text(f"{number} {each}")
        calls = _traced(tmp_path / f"trace-{number}", "execve", config)
        counts.append(sum(call.endswith("= 0") for call in calls))
    unchanged = sum(call.endswith("= 0") for call in _traced(tmp_path / "trace", "execve", config))
    (source / "d30" / "0.txt").write_text("changed")
    one_changed = sum(call.endswith("= 0") for call in _traced(tmp_path / "trace", "execve", config))

    assert counts[1] <= counts[0] <= 20
    assert one_changed <= 16
    assert unchanged == 1


def test_a_whole_publication_loads_nothing_that_is_awaited(source: Path, config: Path) -> None:
    """huggingface_hub's bars of progress would bring asyncio, for 50 ms of each run, and show nothing."""
    write_safetensors(source / "model.safetensors", 20_000)
    command = [sys.executable, "-X", "importtime", "-m", "hubsync", "once", "-c", str(config)]

    done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)

    assert re.search(r"\| +huggingface_hub$", done.stderr, re.MULTILINE)
    assert not re.search(r"\| +(asyncio|tqdm.auto)$", done.stderr, re.MULTILINE)


def test_what_is_unchanged_asks_no_mirror(tmp_path: Path, source: Path, config: Path) -> None:
    """Its receipts are those that the run before made."""
    (source / "a.txt").write_text("a")

    changed, unchanged = (
        [call for call in _traced(tmp_path / f"trace-{turn}", "connect", config) if "AF_INET" in call] for turn in (1, 2)
    )

    assert changed
    assert [] == unchanged


def test_a_small_file_is_opened_once_and_an_unchanged_one_never(tmp_path: Path, source: Path, config: Path) -> None:
    """What is known is told by its status, and what is new is pinned, judged, searched and hashed in one go."""
    for number in range(40):
        (source / f"d{number % 4}").mkdir(exist_ok=True)
        (source / f"d{number % 4}" / f"file-{number}.txt").write_text(f"{number}")

    new, unchanged = (
        [call for call in _traced(tmp_path / f"trace-{turn}", "open,openat,openat2", config) if '"file-' in call]
        for turn in (1, 2)
    )

    assert 40 == len(new)
    assert [] == unchanged


def test_children_are_as_nice_as_hubsync(tmp_path: Path, source: Path, config: Path) -> None:
    """No child begins a session: kernels with autogroups share the processor among sessions, whatever is nice in them."""
    (source / "a.txt").write_text("a")

    calls = _traced(tmp_path / "trace", "execve,setsid", config)

    assert sum("execve(" in call and call.endswith("= 0") for call in calls) > 10
    assert [] == [call for call in calls if "setsid(" in call]


def test_at_rest_nothing_is_written_and_little_wakes_up(config: Path, source: Path) -> None:
    """While nothing changes the daemon makes no call that writes, and wakes up for less than 3 reasons a second."""
    text = config.read_text().replace('heartbeat = "1s"', 'heartbeat = "1h"')
    config.write_text(text.replace('schedule = "1s"', 'schedule = "1h"'))
    write_checkpoint(source / "checkpoint-1")
    with Daemon(config, "env") as daemon:
        daemon.wait_for("mirror.published")
        pid = daemon.process.pid
        seen: list[int] = []

        def is_at_rest() -> bool:
            time.sleep(1.0)
            seen.append(_counters(pid)["syscw"])
            return len(seen) > 3 and seen[-1] == seen[-4]

        wait_until(is_at_rest, "the daemon comes to rest")
        wakeups_per_s = []
        while (
            len(wakeups_per_s) < 4 and min(wakeups_per_s, default=9.0) >= 3
        ):  # one that waits for a busy processor wakes up
            before, began = _counters(pid), time.monotonic()
            time.sleep(_AT_REST_S)
            used = {name: count - before[name] for name, count in _counters(pid).items()}
            wakeups_per_s.append(used["wakeups"] / (time.monotonic() - began))
            assert (0, 0, 0) == (used["syscw"], used["wchar"], used["write_bytes"])

    assert min(wakeups_per_s) < 3


def _counters(pid: int) -> dict[str, int]:
    """Return the kernel's counts of a process: calls and bytes, and how often its threads went to sleep."""
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text().splitlines())
    found = {name: int(value) for name, value in io.items()}
    found["wakeups"] = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        slept = re.search(r"^voluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text(), re.MULTILINE)
        found["wakeups"] += int(slept[1]) if slept else 0

    return found
