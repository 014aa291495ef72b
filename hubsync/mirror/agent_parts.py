"""Reads and remembers multipart uploads: which parts there are, where they go, and which of them the server has.

The Hub's form: the ``upload`` action leads to the address that completes the upload, and its headers hold ``chunk_size``
and the parts' addresses by number (huggingface.js, ``commit.ts``). What is remembered holds signed addresses, so that
only our user can read it.
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple, Self
from urllib.parse import parse_qsl, urlsplit

from hubsync.mirror.agent_client import Action, TransferError


class Multipart(NamedTuple):
    """An upload in parts of *part_size* bytes (the last one may be shorter); *urls* are in the order of the parts."""

    complete: Action
    part_size: int
    urls: tuple[str, ...]

    @property
    def session(self) -> str:
        """What tells two uploads of one object apart: S3's name for it, else the address itself."""
        for url in (self.urls[0], self.complete.href):
            found = [value for name, value in parse_qsl(urlsplit(url).query) if name.lower() == "uploadid"]
            if found:
                return found[0]

        return self.complete.href

    def span(self, number: int, size: int) -> range:
        """Return the bytes of an object of *size* that part *number* (from 1) holds."""
        return range((number - 1) * self.part_size, min(number * self.part_size, size))


def read_multipart(action: Action, size: int) -> Multipart | None:
    """Return the parts that *action* asks for; ``None`` if it asks for the object as a whole.

    Raises:
        TransferError: the parts are not those of an object of *size*.
    """
    headers = {name.lower(): value for name, value in action.headers.items()}
    if "chunk_size" not in headers:
        return None
    # By number, not by text: servers that do not pad the numbers with zeros are understood too.
    urls = {int(name): value for name, value in headers.items() if name.isdecimal()}
    part_size = int(headers["chunk_size"]) if headers["chunk_size"].isdecimal() else 0
    count = -(-size // part_size) if part_size > 0 else 0
    if not count or len(urls) != count or sorted(urls) != list(range(1, count + 1)):
        raise TransferError(f"the server's {len(urls)} parts of {part_size} bytes do not make {size} bytes", status=422)
    rest = {name: value for name, value in action.headers.items() if name.lower() != "chunk_size" and not name.isdecimal()}

    return Multipart(Action(action.href, rest), part_size, tuple(urls[number] for number in sorted(urls)))


class Journal:
    """The upload of one object that was begun, in a file that is only added to: a line for each part that arrived.

    It saves sending again, no more: what cannot be written or read is done without.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.upload: Multipart | None = None
        self.etags: dict[int, str] = {}

    @classmethod
    def load(cls, path: Path) -> Self:
        """Return what is remembered at *path*; nothing, if it cannot be read."""
        journal = cls(path)
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
            first, *rest = path.read_text().splitlines()
            begun = json.loads(first)
            journal.upload = Multipart(Action(begun["href"], begun["headers"]), begun["part_size"], tuple(begun["urls"]))
            for line in rest:  # the last one may be torn
                part = json.loads(line)
                journal.etags[part["part"]] = part["etag"]

        return journal

    def begin(self, upload: Multipart, etags: Mapping[int, str]) -> None:
        """Remember *upload*, of which the server has the parts of *etags*."""
        self.upload, self.etags = upload, dict(etags)
        begun = {
            "href": upload.complete.href,
            "headers": dict(upload.complete.headers),
            "part_size": upload.part_size,
            "urls": upload.urls,
        }
        lines = [begun, *({"part": number, "etag": etag} for number, etag in etags.items())]
        goal = self._path.with_suffix(".new")
        with contextlib.suppress(OSError):  # as on a full disk: then it cannot be gone on with, no more
            self._path.parent.mkdir(mode=0o700, exist_ok=True)
            with open(os.open(goal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:  # noqa: PTH123 - the mode
                file.writelines(json.dumps(line) + "\n" for line in lines)
            goal.replace(self._path)

    def note(self, number: int, etag: str) -> None:
        """Remember that a part arrived. Not made durable: a part that is forgotten is sent again."""
        self.etags[number] = etag
        with contextlib.suppress(OSError), self._path.open("a") as file:
            file.write(json.dumps({"part": number, "etag": etag}) + "\n")

    def drop(self) -> None:
        """Forget the upload."""
        self.upload, self.etags = None, {}
        self._path.unlink(missing_ok=True)
