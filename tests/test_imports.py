"""What commands import: a library that only some need is loaded by those alone."""

import subprocess
import sys

import pytest

_LOAD = "import sys; {}; print(*(set(sys.argv[1:]) & set(sys.modules)))"


def _loaded(statement: str, *libraries: str) -> str:
    command = [sys.executable, "-c", _LOAD.format(statement), *libraries]
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout.strip()


@pytest.mark.parametrize(
    "module",
    ["hubsync.cli", "hubsync.status_view", "hubsync.views.log", "hubsync.monitor.events", "hubsync.config.glance"],
)
def test_what_only_looks_loads_no_library_but_click(module: str) -> None:
    """`--help`, `status`, `log` and `events` answer at once."""
    heavy = ("apscheduler", "git", "huggingface_hub", "pydantic", "rich", "structlog", "watchdog", "yaml")

    assert _loaded(f"import {module}", *heavy) == ""


def test_publishing_what_is_unchanged_loads_no_library_that_it_does_not_use() -> None:
    """GitPython is for commits, huggingface_hub and YAML are for repositories and cards, rich is for terminals.

    What asks by HTTP is for proofs and refusals, and nothing is awaited.
    """
    heavy = ("apscheduler", "asyncio", "git", "http.client", "huggingface_hub", "rich", "ssl", "watchdog", "yaml")

    assert _loaded("import hubsync.cli.publish, hubsync.once, hubsync.config.load, hubsync.monitor.log", *heavy) == ""


def test_a_publication_without_a_card_loads_nothing_that_makes_one() -> None:
    """Few targets have one."""
    assert _loaded("import hubsync.once", "hubsync.card.compose", "hubsync.mirror.card_writer") == ""


def test_the_transfer_agent_loads_no_more_than_it_needs() -> None:
    """It is started for each upload, which waits for it: dataclasses alone, with inspect, are a quarter of its start."""
    assert _loaded("import hubsync.mirror.agent", "dataclasses", "inspect", "hubsync.config.model", "structlog") == ""


def test_what_failures_look_like_is_compiled_with_the_first_one() -> None:
    """Most runs have none, and the table is long."""
    code = (
        "from re import _compiler; compile, made = _compiler.compile, [];"
        "_compiler.compile = lambda pattern, flags=0: made.append(str(pattern)) or compile(pattern, flags);"
        "import hubsync.once; before = len(made); hubsync.mirror.failures.read_failure('push', 'x');"
        "print(*('died of signal' in ''.join(some) for some in (made[:before], made[before:])))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert "False True" == done.stdout.strip()


def test_a_training_awaits_its_own_structlog_beside_a_callback() -> None:
    """What stands in for asyncio while structlog is imported is asyncio as soon as it is used."""
    code = "import hubsync.integrations.reporter, asyncio, structlog;asyncio.run(structlog.get_logger().ainfo('awaited'))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert "awaited" in done.stdout


def test_what_shows_on_a_terminal_finds_rich() -> None:
    """Rich is kept from structlog alone."""
    assert _loaded("import hubsync.monitor.log; import rich.console", "rich") == "rich"


def test_who_hashes_waits_for_the_interpreter_no_longer_than_a_block_takes() -> None:
    """A block of 4 MiB takes 3 ms, and wants the interpreter several times: Python's 5 ms each would be most of it."""
    code = (
        "import atexit, sys; from hubsync.cli import main; sys.argv = ['hubsync', '--version'];"
        "atexit.register(lambda: print(sys.getswitchinterval() < 0.0005)); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert "True" == done.stdout.splitlines()[-1]


def test_what_is_left_at_the_end_is_not_searched_for_circles() -> None:
    """It ends with the process anyway, and the search took a quarter of the time of a short command."""
    code = (
        "import atexit, gc, sys; from hubsync.cli import main; sys.argv = ['hubsync', '--version'];"
        "atexit.register(lambda: print(len(gc.get_objects()) < gc.get_freeze_count())); main()"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)

    assert "True" == done.stdout.splitlines()[-1]
