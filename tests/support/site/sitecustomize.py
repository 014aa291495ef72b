"""Imported by every Python that a test starts: see canary.py."""

import os

if "HUBSYNC_TEST_LEAKS" in os.environ:
    import canary

    canary.watch_children(os.environ["HUBSYNC_TEST_LEAKS"])

if "HUBSYNC_TEST_KILL_AT" in os.environ:
    import killing

    killing.kill_as_told()
