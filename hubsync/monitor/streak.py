"""Decides which of many failures in a row are said: the first, and then each doubling. No I/O, no clock, no log.

A fault that lasts for a week is tried again thousands of times; its log stays readable.
"""


def is_said(failures: int) -> bool:
    """Tell whether the failure with this number in its row, from 1, is worth a line."""
    return failures & (failures - 1) == 0


class Streaks:
    """Counts failures in a row, by name and kind."""

    def __init__(self) -> None:
        self._rows: dict[str, tuple[str, int]] = {}

    def fail(self, name: str, kind: str) -> int:
        """Count a failure of *name*; return its number if it is to be said, else 0. Another *kind* is a new row."""
        former, count = self._rows.get(name, (kind, 0))
        count = count + 1 if former == kind else 1
        self._rows[name] = kind, count

        return count if is_said(count) else 0

    def end(self, name: str) -> int:
        """Note that *name* succeeded; return how often it had failed."""
        return self._rows.pop(name, ("", 0))[1]
