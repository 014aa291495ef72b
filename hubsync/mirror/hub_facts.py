"""What is known of a repository on a Hub, and what is asked to be done there: plain values."""

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from hubsync.store.pointer import Pointer


class Visibility(Enum):
    """What the Hub says of a repository; ``UNKNOWN`` if the server is no Hub."""

    PRIVATE = "private"
    PUBLIC = "public"
    MISSING = "missing"
    UNKNOWN = "unknown"


class RepoState(Struct, frozen=True):
    """What is at a repository's address now; it is called *repo_id*, and *head* is that of its default branch.

    *is_page*: something answered that is no API, such as a login page.
    """

    visibility: Visibility
    repo_id: str = ""
    head: str | None = None
    is_page: bool = False


class Pull(Struct, frozen=True):
    """A pull request; *status* is one of draft, open, merged and closed."""

    number: int
    status: str
    url: str

    @property
    def ref(self) -> str:
        """Where its commits are."""
        return f"refs/pr/{self.number}"

    @property
    def is_open(self) -> bool:
        """Whether it takes more commits."""
        return self.status in {"draft", "open"}


class HubFile(Struct, frozen=True):
    """What the Hub lists at a path; *oid* and *size* are those of its object if it goes through LFS."""

    blob: str
    oid: str | None
    size: int


class HubCommit(Struct, frozen=True):
    """A commit to be made on *parent*: small files by content, large ones by their uploaded object, and removals."""

    message: str
    parent: str | None
    contents: Mapping[str, bytes]
    objects: Mapping[str, Pointer]
    removed: tuple[str, ...]
