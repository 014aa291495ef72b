"""From files and the environment to one frozen ``Config``, or to one report of everything that is wrong.

The stages: read every file, check each against its shape, check them against each other, then merge and build.
After it nobody reads a dictionary or the environment again.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hubsync.config.crosscheck import cross_check
from hubsync.config.documents import Document, find_config, find_included, read_document
from hubsync.config.model import (
    FOREIGN_EDIT_DEFAULTS,
    Config,
    Endpoint,
    EndpointSettings,
    Frozen,
    Mirror,
    Service,
    Target,
    TargetSettings,
)
from hubsync.config.fields import Policy
from hubsync.config.problems import Problem, raise_problems
from hubsync.config.repo import DEFAULT_ENDPOINT
from hubsync.config.shape import check_shape, read_shape
from hubsync.config.tables import ConfigFile, IncludedFile, MirrorTable, TargetTable, json_schema

__all__ = ["find_config", "json_schema", "load_config"]

DEFAULT_URL = "https://huggingface.co"

_Settings = TypeVar("_Settings", bound=Frozen)


def load_config(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Return what the config declares; raise ConfigError with every problem, one per line.

    *path* wins over $HUBSYNC_CONFIG and the usual places. Token files need not exist: they are read when they are
    needed.
    """
    documents = _read_documents(find_config(path, environment), environment.get("HOME"))
    documents = _add_environment(documents, environment)
    files = [document.path for document in documents]
    problems = [problem for document in documents for problem in check_shape(_kind_of(document, documents), document)]
    if not problems or any(document.data.get("target") for document in documents):
        problems += cross_check(documents)
    raise_problems(problems, files)

    return _build(documents)
