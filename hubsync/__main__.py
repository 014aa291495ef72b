"""Run hubsync as ``python -m hubsync``."""

from hubsync.cli import main

main()
