"""What a path in a config file means. It knows no key, and nothing that takes long to import."""

import re
from pathlib import Path

from msgspec import Struct

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_LONGEST_PATH_BYTES = 4096  # PATH_MAX


class FileContext(Struct, frozen=True):
    """What a path in a file depends on: the *directory* of that file, and *home*, the user's."""

    directory: Path
    home: str | None

    def locate(self, text: str) -> Path:
        """Return the absolute path that *text* means in this file; symbolic links stay as they are."""
        if not text or _CONTROL.search(text) or len(text.encode()) > _LONGEST_PATH_BYTES:
            raise ValueError('is no usable path; write e.g. "/data/runs/llama"')
        if not text.startswith("~"):
            return self.directory / text

        first, _, rest = text.partition("/")
        if first != "~" or not self.home or not self.home.startswith("/"):
            raise ValueError('starts with a "~" that cannot be expanded here; write the whole path')

        return Path(self.home, rest.lstrip("/"))
