"""Takes one Hub down while the run goes on, and brings it up again when a checkpoint that it lacks is deleted here."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path

from hubsync.control import send_command
from hubsync.demo.hubs import DemoHub
from hubsync.demo.story import DEMO, Line, Story

_UNIT = "checkpoint-200"
_RECOVERY_S = 4.0  # how long the daemon gets to try again by itself before it is asked to


class Outage:
    """The outage of one Hub, from the moment that a checkpoint is begun until it is deleted."""

    def __init__(self, hub: DemoHub, control: Path, story: Story, tell: Callable[[Line], None]) -> None:
        self._hub = hub
        self._control = control
        self._story = story
        self._tell = tell
        self._since = 0.0
        self._ended = 0.0
        self._asked = False
        self.took_s = 0.0

    def follow(self, said: Mapping[str, object]) -> None:
        """Act on what the writer said."""
        if said.get("unit") != _UNIT:
            return
        if said["event"] == "saving":
            self._begin()
        elif said["event"] == "deleted":
            self._end()

    def ask_again(self) -> None:
        """Let the daemon try at once if its next try is still far away."""
        is_due = self._ended and time.monotonic() - self._ended > _RECOVERY_S
        if is_due and not self._asked and self._hub.name in self._story.failing:
            self._asked = True
            self._tell(Line(DEMO, "does not wait for hubsync's next try: `hubsync flush`"))
            send_command(self._control, "flush", ())

    def _begin(self) -> None:
        self._hub.stop()
        self._story.down = self._hub.name
        self._since = time.monotonic()
        self._tell(Line(DEMO, f"takes the Hub `{self._hub.name}` down, on purpose", "warn"))

    def _end(self) -> None:
        self._hub.start()
        self._story.down = None
        self._ended = time.monotonic()
        self.took_s = self._ended - self._since
        self._tell(Line(DEMO, f"brings `{self._hub.name}` up again, after {self.took_s:.0f}s"))
