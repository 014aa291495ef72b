"""Looks out for the tokens of the tests' Hubs where none may stand: with every test, and for next to nothing.

They are made of a few letters only, so that any of them is known when it is seen. Looked at are arguments and environment
of each process that hubsync starts (by an audit hook, here and in every hubsync that a test starts, see sitecustomize.py),
those of all that these start in turn (as /proc shows them with each line of a daemon's log), what hubsync prints, and the
files of its state.
"""

import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

LETTERS = "CaNy"
PLACE = "HUBSYNC_TEST_LEAKS"  # the variable that names the file in which leaks are noted

_PACKAGE = str(Path(__file__).parents[3] / "hubsync") + "/"
_ASIDE = (f"{_PACKAGE}localhub/", f"{_PACKAGE}demo/")  # have tokens of their own to give
_MARK = re.compile(rb"hf_[%s]{30}|aGZfdXNlcjpoZl[0-9A-Za-z+/]{36}" % LETTERS.encode())  # plain, or for Basic
_LOOKED_AT = 1 << 20


def sees(text: str | bytes) -> bool:
    """Tell whether a token stands in *text*."""
    return _MARK.search(text if isinstance(text, bytes) else text.encode("utf-8", "replace")) is not None


def watch_children(place: str) -> None:
    """Note in the file at *place* each process that our package starts with a token in its arguments or environment."""

    def hear(event: str, said: tuple[Any, ...]) -> None:
        if event == "subprocess.Popen" and _is_ours():
            _, argv, _, environment = said
            values = {
                "argv": [argv] if isinstance(argv, (str, bytes)) else argv,
                "environ": dict(os.environ if environment is None else environment).values(),
            }
            leaks = [where for where in values if any(sees(os.fsencode(value)) for value in values[where])]
            if leaks:
                with open(place, "a") as file:  # noqa: PTH123 - runs in every process
                    file.writelines(f"{where} of {argv!r:.120}\n" for where in leaks)

    sys.addaudithook(hear)


def search_processes(pid: int) -> Iterator[str]:
    """Yield the processes below *pid*, by whomever they were started, that now have a token in arguments or environment.

    One that was just forked still shows the environment of its parent, which may have been given a token.
    """
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
    except OSError:  # it has ended
        return
    parents = _read(Path(f"/proc/{pid}/cmdline"))
    for thread in threads:
        for child in _read(thread / "children").split():
            place = Path("/proc") / child.decode()
            environment = _read(place / "environ")  # before the arguments: if those are its own, this is, too
            if sees(line := _read(place / "cmdline")):
                yield f"argv of {line!r:.120}"
            if line not in {parents, b""} and sees(environment) and environment == _read(place / "environ"):
                yield f"environ of {line!r:.120}"
            yield from search_processes(int(child))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:  # it has ended
        return b""


def _is_ours() -> bool:
    """Tell whether it is hubsync that does this: the nearest frame of the project is the package's, not a test's."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_filename
        if name.startswith(_PACKAGE):
            return not name.startswith(_ASIDE)
        if "/tests/" in name and "site-packages" not in name and frame.f_globals is not globals():
            return False
        frame = frame.f_back  # type: ignore[assignment]
    return False


def search(directory: Path) -> Iterator[Path]:
    """Yield the files of a test's states and logs that hold a token."""
    places = [*directory.glob("state"), *directory.glob("*/state")]
    files = [*directory.glob("*.jsonl"), *directory.glob("*.log"), *(file for place in places for file in place.rglob("*"))]
    for file in files:
        if file.is_file() and not file.is_symlink():
            with file.open("rb") as opened:
                if sees(opened.read(_LOOKED_AT)):
                    yield file
