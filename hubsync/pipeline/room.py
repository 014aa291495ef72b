"""How much must stay free on the disk of a store: capture pauses below that, and publishing needs some itself."""

from collections.abc import Callable, Iterator

from msgspec import Struct

from hubsync.monitor.text import format_bytes, format_count
from hubsync.store.reserve import Inodes

_PUBLISHING = "publishing goes on and frees what it has sent"
_BYTES_HINT = f"free some space there, or see which mirror keeps the backlog; {_PUBLISHING}"
_INODES_HINT = f"delete files there (`df -i` counts them), or see which mirror keeps the backlog; {_PUBLISHING}"
_MOST_INODES = 1000
_INODES_SHARE = 10  # of those of a small file system


class Room(Struct, frozen=True):
    """How much of something is *free*, and the *least* that should be; *why* that much."""

    free: int
    least: int
    why: str
    show: Callable[[int], str]
    hint: str

    @property
    def resume_at(self) -> int:
        """How much has to be free again: a disk that is full to the limit must not pause and resume all the time."""
        return self.least + self.least // 20

    def __str__(self) -> str:
        return f"{self.show(self.free)} free, {self.why} {self.show(self.least)}"


def find_lack(free_bytes: int, inodes: Inodes | None, min_free_bytes: int, *, is_paused: bool = False) -> Room | None:
    """Return what a disk has too little of; if capture *is_paused*, for it to go on."""
    rooms = _list_rooms(free_bytes, inodes, min_free_bytes)
    return next((room for room in rooms if room.free < (room.resume_at if is_paused else room.least)), None)


def _list_rooms(free_bytes: int, inodes: Inodes | None, min_free_bytes: int) -> Iterator[Room]:
    yield Room(free_bytes, min_free_bytes, "min_free is", format_bytes, _BYTES_HINT)
    if inodes is not None:
        least = min(_MOST_INODES, inodes.total // _INODES_SHARE)
        yield Room(inodes.free, least, "publishing may need", _show_inodes, _INODES_HINT)


def _show_inodes(count: int) -> str:
    return format_count(count, "inode")
