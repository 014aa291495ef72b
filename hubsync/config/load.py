"""From files and the environment to one frozen ``Config``, or to one report of everything that is wrong.

The stages: read every file, check each against its shape, check them against each other, then merge and build.
After it nobody reads a dictionary or the environment again.
"""

from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from hubsync.config.crosscheck import cross_check
from hubsync.config.documents import Document, find_config, find_included, read_document
from hubsync.config.fields import Policy
from hubsync.config.glance import default_state_dir
from hubsync.config.model import (
    FOREIGN_EDIT_DEFAULTS,
    Config,
    Endpoint,
    Mirror,
    MirrorRetention,
    Service,
    Target,
    TargetSettings,
)
from hubsync.config.problems import Problem, raise_problems
from hubsync.config.repo import DEFAULT_ENDPOINT
from hubsync.config.shape import check_shape, read_shape
from hubsync.config.table import Frozen
from hubsync.config.tables import ConfigFile, IncludedFile, MirrorTable, TargetTable, json_schema

__all__ = ["example_text", "find_config", "json_schema", "load_config"]

DEFAULT_URL = "https://huggingface.co"

_Settings = TypeVar("_Settings", bound=Frozen)


def load_config(path: Path | None, environment: Mapping[str, str]) -> Config:
    """Return what the config declares; raise ConfigError with every problem, one per line.

    *path* wins over $HUBSYNC_CONFIG and the usual places. Token files need not exist: they are read when they are
    needed.
    """
    documents, problems = _read_documents(find_config(path, environment), environment.get("HOME"))
    is_all_read = not problems
    if documents:
        documents = _add_environment(documents, environment)
        for document in documents:
            problems += check_shape(ConfigFile if document is documents[0] else IncludedFile, document)
    if is_all_read:  # an endpoint in a file that could not be read is not missing
        problems += _check_target_exists(documents) if not problems else ()
        problems += cross_check(documents)
    raise_problems(problems, (document.path for document in documents))

    return _build(documents)


def example_text() -> str:
    """Return a commented config, for people to start from."""
    return resources.files("hubsync.config").joinpath("example.toml").read_text("utf-8")


def _read_documents(path: Path, home: str | None) -> tuple[list[Document], list[Problem]]:
    """Return the config at *path* and what it includes, and what could not be read."""
    main = read_document(path, home)
    if isinstance(main, Problem):
        return [], [main]

    found = list(find_included(main))
    read = [read_document(each, home) if isinstance(each, Path) else each for each in found]
    documents = [main, *(each for each in read if isinstance(each, Document))]

    return documents, [each for each in read if isinstance(each, Problem)]


def _add_environment(documents: list[Document], environment: Mapping[str, str]) -> list[Document]:
    """Return *documents* with what the environment says where they are silent, so that both pass the same checks."""
    main, *included = documents
    service = main.data.get("service", {})
    if isinstance(service, dict) and "state_dir" not in service:
        main = main.with_table("service", {**service, "state_dir": default_state_dir(environment)})

    documents = [main, *included]
    owner = next((document for document in documents if DEFAULT_ENDPOINT in document.table("endpoint")), main)
    endpoints = owner.data.get("endpoint", {})
    hub = endpoints.get(DEFAULT_ENDPOINT, {}) if isinstance(endpoints, dict) else None
    if isinstance(hub, dict) and "url" not in hub:
        url = environment.get("HF_ENDPOINT") or DEFAULT_URL
        with_url = owner.with_table("endpoint", {**endpoints, DEFAULT_ENDPOINT: {**hub, "url": url}})
        documents[documents.index(owner)] = with_url

    return documents


def _check_target_exists(documents: list[Document]) -> list[Problem]:
    if any(document.data.get("target") for document in documents):
        return []

    return [documents[0].problem((), "declares no target; write a [[target]] with name, source and mirrors")]


def _build(documents: list[Document]) -> Config:
    """Return the config that *documents*, which have passed every check, declare together."""
    main, *included = documents
    first = read_shape(ConfigFile, main.data, main.context)
    files = [first, *(read_shape(IncludedFile, document.data, document.context) for document in included)]
    endpoints = {name: endpoint for file in files for name, endpoint in file.endpoint.items()}

    return Config(
        path=main.path,
        files=tuple(document.path for document in documents),
        endpoints={name: Endpoint(**_fields(endpoint), name=name) for name, endpoint in endpoints.items()},
        targets=tuple(_build_target(first.defaults, table) for file in files for table in file.target),
        service=Service(**_fields(first.service)),
        log=first.log,
        monitor=first.monitor,
        mark=" ".join(document.mark for document in documents),
    )


def _build_target(defaults: TargetSettings, table: TargetTable) -> Target:
    settings = _fields(_merge(defaults, table))
    policies = settings["on_foreign_edit"] = _complete_policies(settings["on_foreign_edit"])
    retention = MirrorRetention(remote=settings["retention"].remote)
    mirrors = tuple(_build_mirror(mirror, policies, retention) for mirror in table.mirrors)

    return Target(**settings, name=table.name, source=table.source, mirrors=mirrors)


def _build_mirror(table: MirrorTable, policies: dict[str, Policy], retention: MirrorRetention) -> Mirror:
    return Mirror(
        name=table.name or str(table.repo),
        endpoint=table.repo.endpoint,
        repo_type=table.repo.repo_type,
        repo_id=table.repo.repo_id,
        branch=table.repo.branch,
        path_in_repo=table.path_in_repo,
        private=table.private,
        required=table.required,
        include=table.include,
        exclude=table.exclude,
        keep_latest=table.keep_latest,
        retention=_merge(retention, table.retention) if table.keep_latest is None else table.retention,
        max_commits_per_hour=table.max_commits_per_hour,
        pull_request=table.pull_request,
        transport=table.transport,
        transfer=table.transfer,
        on_foreign_edit=_complete_policies({**policies, **table.on_foreign_edit}),
    )


def _complete_policies(policies: dict[str, Policy]) -> dict[str, Policy]:
    """Return *policies* with the built-in ones where they are silent; "*" stands last, as what is left."""
    complete = {**FOREIGN_EDIT_DEFAULTS, **policies}
    return {**{pattern: policy for pattern, policy in complete.items() if pattern != "*"}, "*": complete["*"]}


def _merge(base: _Settings, over: Frozen) -> _Settings:
    """Return *base* with what *over* sets: tables key by key, lists and single values as a whole."""
    update: dict[str, Any] = {}
    for name in over.model_fields_set & type(base).model_fields.keys():
        old, new = getattr(base, name), getattr(over, name)
        if isinstance(old, Frozen) and isinstance(new, Frozen):
            new = _merge(old, new)
        elif isinstance(old, dict) and isinstance(new, dict):
            new = {**old, **new}
        update[name] = new

    return base.model_copy(update=update)


def _fields(model: Frozen) -> dict[str, Any]:
    return {name: getattr(model, name) for name in type(model).model_fields}
