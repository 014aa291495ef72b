"""Publishes local model directories to mirrored Hub repositories."""

from importlib.metadata import version

__version__ = version("hubsync")
