"""Runs one target from its source to its queue: what changed, when it is settled and whole, capture, snapshot.

``pipeline`` has the course of it. ``files`` knows how far each file is, ``unit`` which units are complete, ``intake`` takes
settled files in, ``capturing`` reads one, ``held`` says what waits and why, ``guard`` stops a target that had an accident,
``opening`` makes what a pipeline works on, ``last`` is the end of it.
"""

from hubsync.pipeline.held import Pending
from hubsync.pipeline.last import commit_last
from hubsync.pipeline.opening import make_capturer, open_store, store_directory
from hubsync.pipeline.pipeline import Pipeline, Settled

__all__ = ["Pending", "Pipeline", "Settled", "commit_last", "make_capturer", "open_store", "store_directory"]
