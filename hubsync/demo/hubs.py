"""Owns the demo's two Hubs; each can be taken down and brought up again on the same port with the same content."""

from pathlib import Path

from hubsync.demo.disk import measure_files
from hubsync.localhub import LocalHub


class DemoHub:
    """A local Hub with a name."""

    def __init__(self, name: str, directory: Path) -> None:
        self.name = name
        self.directory = directory
        self.url = ""
        self.token = ""
        self._hub: LocalHub | None = None
        self._port = 0

    def start(self) -> None:
        """Serve; the first time on a free port, then always on that."""
        self._hub = LocalHub(self.directory, port=self._port)
        self._hub.start()
        self.url, self.token = self._hub.url, self._hub.token
        self._port = int(self.url.rpartition(":")[2])

    def stop(self) -> None:
        """Be down."""
        if self._hub is not None:
            self._hub.stop()
            self._hub = None

    def measure(self) -> int:
        """Return the bytes that lie on the Hub."""
        return measure_files(self.directory)
