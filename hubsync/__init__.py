"""Publishes local model directories to mirrored Hub repositories."""


def __getattr__(name: str) -> str:
    """Return ``__version__``, looked up when it is asked for: that takes as long as half of the other imports."""
    if name != "__version__":
        raise AttributeError(name)
    from importlib.metadata import version  # noqa: PLC0415 - see above

    return version("hubsync")
