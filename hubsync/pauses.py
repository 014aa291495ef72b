"""Owns which targets are paused: an empty file for each in the state directory, so that a restart forgets none."""

from pathlib import Path

from hubsync.errors import StateError


class Pauses:
    """The names of paused targets, kept in *directory*."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def __contains__(self, target: str) -> bool:
        return (self._directory / target).exists()

    def add(self, target: str) -> None:
        """Remember that *target* is paused. Raises StateError if that cannot be written."""
        try:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            (self._directory / target).touch(mode=0o600)
        except OSError as exc:
            raise StateError(f"cannot pause {target}: {self._directory}: {exc.strerror}", hint="free some space") from exc

    def discard(self, target: str) -> None:
        """Remember *target* as paused no longer. Raises StateError if that cannot be written."""
        try:
            (self._directory / target).unlink(missing_ok=True)
        except OSError as exc:
            raise StateError(f"cannot resume {target}: {self._directory}: {exc.strerror}") from exc
