"""Plays the demo: starts the Hubs, the daemon and the writer, follows what happens, and compares."""

import queue
import sys
import time
from contextlib import ExitStack
from pathlib import Path

from msgspec import Struct

from hubsync.config.load import load_config
from hubsync.config.model import Mirror, Target
from hubsync.demo.child import Child, Said
from hubsync.demo.compare import Comparison, Repository, compare
from hubsync.demo.disk import DiskUse
from hubsync.demo.hubs import DemoHub
from hubsync.demo.outage import Outage
from hubsync.demo.place import Place, write_config
from hubsync.demo.record import Record, digest
from hubsync.demo.report import Outcome
from hubsync.demo.show import Screen
from hubsync.demo.story import DAEMON, DEMO, WRITER, Line, Story
from hubsync.errors import HubsyncError
from hubsync.monitor.text import escape_unsafe, format_bytes, format_count, format_duration
from hubsync.units import target_rules
from hubsync.watch.inventory import Kind, take_inventory

HUBS = ("first", "second")
_TICK_S = 0.2
_SAMPLE_S = 0.5
_READY_S = 30.0
_PATIENCE_S = 30.0  # without any progress; then the demo says what is missing
_SLOWEST_BYTES_S = 50e6  # a large file is hashed at least this fast, and not a word is said meanwhile


class Scale(Struct, frozen=True):
    """How large the demo's own run is; *pace_s* is the writer's pause between two shards."""

    size_mb: float = 360.0
    checkpoints: int = 4
    pace_s: float = 0.8


class Demo:
    """One performance: of the demo's own run, or of the reader's directory if *is_own* is set."""

    def __init__(self, place: Place, scale: Scale, screen: Screen, *, is_own: bool) -> None:
        self._place = place
        self._scale = scale
        self._screen = screen
        self._is_own = is_own
        self._inbox: queue.SimpleQueue[Said] = queue.SimpleQueue()
        self._daemon = Child(DAEMON, _daemon_argv(place), self._inbox, place.log)
        self._writer = Child(WRITER, _writer_argv(place, scale), self._inbox)
        self._disk = DiskUse()
        self._hub_bytes: dict[str, int] = {}
        self._sampled = 0.0
        self._progressed = 0.0
        self._figure: object = None
        self._left_out: dict[str, str] = {}
        self._story = Story(HUBS)
        self._outage: Outage | None = None
        self.hubs = {name: DemoHub(name, place.hub(name)) for name in HUBS}

    def play(self, stack: ExitStack) -> Outcome:
        """Run from the start of the Hubs to the comparison; *stack* ends what was started."""
        for hub in self.hubs.values():
            stack.callback(hub.stop)
            hub.start()
        write_config(self._place, {name: hub.url for name, hub in self.hubs.items()})
        target = load_config(self._place.config, {}).targets[0]
        self._prepare(target)
        self._introduce(target)
        stack.callback(self._screen.stop)
        self._screen.begin()
        self._start(stack)
        self._follow(target)
        self._end_daemon()
        down_s = self._outage.took_s if self._outage else 0.0

        return Outcome(self._story, self._compare(target), self._disk, target.quiet_s, down_s, self._left_out)

    # --- before

    def _prepare(self, target: Target) -> None:
        if self._is_own:
            self._story = Story(HUBS, self._read_own(target))
            return
        self._place.source.mkdir()
        self._outage = Outage(self.hubs[HUBS[1]], self._place.state / "control.sock", self._story, self._screen.say)

    def _read_own(self, target: Target) -> dict[str, Record]:
        """Digest what hubsync's rules take of the reader's directory."""
        inventory = take_inventory(target.source, target_rules(target))
        self._left_out = {path: skip.reason for path, skip in inventory.skipped.items() if skip.kind is not Kind.IGNORED}
        if not inventory.entries:
            reasons = [f"\n  {escape_unsafe(path)}: {why}" for path, why in sorted(self._left_out.items())[:5]]
            raise HubsyncError(
                f"there is no file to publish in {target.source}{''.join(reasons)}", hint="name a directory of model files"
            )
        size = format_bytes(sum(entry.identity.size for entry in inventory.entries.values()))
        self._screen.say_text(f"Reading {target.source}: {format_count(len(inventory.entries), 'file')}, {size} ...")

        records = {}
        for path in sorted(inventory.entries):
            try:
                records[path] = digest(target.source / path)
            except OSError as exc:  # gone, or not to be read
                self._left_out[path] = exc.strerror or str(exc)

        return records

    def _introduce(self, target: Target) -> None:
        facts = {"source": _short(target.source)}
        facts |= {mirror.name: f"{self.hubs[mirror.name].url}/{mirror.repo_id}" for mirror in target.mirrors}
        facts |= {"config": _short(self._place.config)}
        self._screen.say_intro([self._tell_what(), self._tell_then()], facts)

    def _tell_what(self) -> str:
        if self._is_own:
            records = self._story.records
            size = format_bytes(sum(record.size for record in records.values()))
            return (
                f"hubsync publishes your directory ({format_count(len(records), 'file')}, {size}), which is only read, to"
                " two Hubs on this machine."
            )

        return (
            f"A training run saves {self._scale.checkpoints} checkpoints and keeps the newest two. hubsync watches its"
            " directory and publishes each checkpoint, whole, to two Hubs on this machine."
        )

    def _tell_then(self) -> str:
        then = "One of the Hubs will be down for a while. " if self._outage else ""
        return f"{then}At the end all files are downloaded from both Hubs and compared. Ctrl-C ends it all."

    def _start(self, stack: ExitStack) -> None:
        stack.callback(self._daemon.stop)
        self._daemon.start({"HUBSYNC_LOG_LEVEL": "debug"})  # single objects are shown, too
        deadline = time.monotonic() + _READY_S
        while self._story.ready_at is None and time.monotonic() < deadline:
            self._tick()
        if not self._is_own:
            stack.callback(self._writer.stop)
            self._writer.start()

    # --- meanwhile

    def _follow(self, target: Target) -> None:
        """Show what happens until both Hubs list all that was written, or nothing happens any more."""
        checked: object = None
        next_check = 0.0
        self._progressed = time.monotonic()
        while time.monotonic() - self._progressed < self._patience_s():
            self._tick()
            if self._outage:
                self._outage.ask_again()
            state = (self._story.publications, len(self._story.held))
            if self._story.is_written and state != checked and time.monotonic() >= next_check:
                checked, began = state, time.monotonic()
                if self._is_complete(target):
                    return
                next_check = time.monotonic() + (time.monotonic() - began)  # a long listing is not asked for all the time

        self._screen.say(Line(DEMO, f"nothing has happened for {format_duration(self._patience_s())}", "warn"))

    def _tick(self) -> None:
        """Take what the children say for a moment, measure, and draw."""
        self._take_news()
        self._sample()
        self._screen.update(self._story, self._hub_bytes)
        if self._writer.exit_code():
            raise HubsyncError("the demo's writer failed", hint="see the lines above")
        if (code := self._daemon.exit_code()) is not None:
            self._take_news()
            raise HubsyncError(f"the daemon ended with exit code {code}", hint="see the lines above")

    def _take_news(self) -> None:
        deadline = time.monotonic() + _TICK_S
        while (left := deadline - time.monotonic()) > 0:
            try:
                self._take(self._inbox.get(timeout=left))
            except queue.Empty:
                return

    def _take(self, said: Said) -> None:
        if said.who == WRITER and "event" not in said.fields:
            self._screen.say(Line(WRITER, str(said.fields.get("message", "")), "bad"))
            return
        feed = self._story.feed_writer if said.who == WRITER else self._story.feed_daemon
        for line in feed(said.fields):
            self._screen.say(line)
        if said.who == WRITER and self._outage:
            self._outage.follow(said.fields)
        if said.fields.get("event") == "snapshot.committed" and not self._is_own:
            for unit in said.fields["units"]:
                self._writer.tell(unit)

    def _sample(self) -> None:
        now = time.monotonic()
        if now - self._sampled < _SAMPLE_S:
            return
        self._sampled = now
        self._disk.sample(self._place.state, self._story.pins, self._story.deleted_oids())
        self._hub_bytes = {name: hub.measure() for name, hub in self.hubs.items()}
        figure = (self._hub_bytes, self._story.news)
        if figure != self._figure:
            self._figure, self._progressed = figure, now

    def _patience_s(self) -> float:
        largest = max((record.size for record in self._story.records.values()), default=0)
        return _PATIENCE_S + largest / _SLOWEST_BYTES_S

    def _is_complete(self, target: Target) -> bool:
        expected = self._story.expected()
        return not any(self._repository(mirror).lacks(expected) for mirror in target.mirrors)

    # --- after

    def _end_daemon(self) -> None:
        self._sample()
        code = self._daemon.stop()
        if code:
            self._screen.say(Line(DEMO, f"the daemon ended with exit code {code}", "bad"))

    def _compare(self, target: Target) -> dict[str, Comparison]:
        comparisons = {}
        for mirror in target.mirrors:
            self._screen.say(Line(DEMO, f"downloads everything from `{mirror.name}` and compares"))
            found = self._repository(mirror).download(self._place.directory / "download")
            comparisons[mirror.name] = compare(self._story.records, found)

        return comparisons

    def _repository(self, mirror: Mirror) -> Repository:
        hub = self.hubs[mirror.name]
        return Repository(hub.url, hub.token, mirror.repo_id)


def _short(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def _daemon_argv(place: Place) -> tuple[str, ...]:
    return (sys.executable, "-m", "hubsync", "-c", str(place.config), "run")


def _writer_argv(place: Place, scale: Scale) -> tuple[str, ...]:
    return (
        sys.executable, "-m", "hubsync.demo.writer", str(place.source), f"--size-mb={scale.size_mb}",
        f"--checkpoints={scale.checkpoints}", f"--pace={scale.pace_s}",
    )  # fmt: skip
