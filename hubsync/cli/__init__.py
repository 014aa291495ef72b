"""The command line: reads arguments, calls what does the work, prints values, turns errors into exit codes.

Results go to standard output, messages and logs to standard error. Heavy imports stand inside the commands that need
them, so that ``status`` and ``--help`` answer at once.
"""

import gc
import os
import sys

from hubsync.cli import install, local, look, prepare, prove, prune, publish, restore
from hubsync.cli.app import cli

__all__ = ["cli", "install", "local", "look", "main", "prepare", "prove", "prune", "publish", "restore"]

_COLLECT_EVERY = 200_000  # new objects: the imports make 130,000, an inventory as many as files; none of them is garbage

# How long a thread may keep the interpreter from another. One that hashes wants it a few times for each block, and where
# another one works, as the imports and an inventory do, waits for so long each time: with Python's 5 ms a third as fast.
_SWITCH_S = 0.0002


def main() -> None:
    """Run the command line in a closed environment: children see a few variables and no token, and nothing dumps core."""
    from hubsync.store.private import forbid_core_dumps  # noqa: PLC0415 - as everywhere here
    from hubsync.store.process import close_environment  # noqa: PLC0415

    forbid_core_dumps()
    gc.set_threshold(_COLLECT_EVERY)
    sys.setswitchinterval(_SWITCH_S)
    environment = close_environment(os.environ)
    os.environ["PYDANTIC_DISABLE_PLUGINS"] = "1"  # none is meant for us, and to look for them asks every package
    try:
        cli(obj=environment)
    finally:
        gc.freeze()  # all that is left ends with the process: to look for circles in it took a quarter of a short command
