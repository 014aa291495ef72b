"""Decides what a unit of systemd says so that it fits a config: paths that may be read or written, credentials, the user.

It knows the syntax of units, no file and no environment. The text is a template of ``hubsync/systemd`` with what the config
asks for at its end, since the last assignment counts, and lists are added to.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from msgspec import Struct

from hubsync.config.model import Config, Endpoint, Target
from hubsync.errors import UsageError

WRITTEN = "# Written by `hubsync install-service`; it writes it anew. Local changes: systemctl edit"
STATE_DIR, LOG_DIR, CONFIG_DIR = Path("/var/lib/hubsync"), Path("/var/log/hubsync"), Path("/etc/hubsync")

_EXEC = "ExecStart=/usr/bin/hubsync run --config "
_CREDENTIAL = re.compile(r"^# The token as a credential.*?^SetCredential=.*?$\n", re.MULTILINE | re.DOTALL)
_PLAIN = re.compile(r"[\w./@:+,=~-]+", re.ASCII)
_HIDDEN = (Path("/tmp"), Path("/var/tmp"))  # noqa: S108 - PrivateTmp= shows the service others in their place


class Installation(Struct, frozen=True):
    """Who runs hubsync, and how.

    Attributes:
        command: what is started, without "run".
        user: whose service it is; ``None`` for a service of one's own manager.
        has_links: source and store lie in one writable mount, so that files can be kept by hard links.
    """

    command: tuple[str, ...]
    user: str | None
    has_links: bool = False


def render_unit(template: str, config: Config, installation: Installation) -> str:
    """Return *template* made to fit *config*.

    Raises:
        UsageError: a path cannot be said in a unit, or there is no directory that could be one mount.
    """
    start = _words([*installation.command, "run", "--config", str(config.path)]).replace("$", "$$")
    kept = _CREDENTIAL.sub("", template).rstrip("\n")
    lines = [f"ExecStart={start}" if line.startswith(_EXEC) else line for line in kept.splitlines()]
    stores = [target.store_dir or config.service.state_dir for target in config.targets]
    mounts = _words(_outermost([target.source for target in config.targets] + stores))
    lines += ["", f"# --- what {config.path.name} asks for", "", "[Unit]", f"RequiresMountsFor={mounts}"]
    lines += ["", "[Service]", *_system(config, installation), *_credentials(config)]

    return "\n".join([WRITTEN, "", *lines]) + "\n"


def _system(config: Config, installation: Installation) -> Iterator[str]:
    """Yield the assignments of a service that root installs."""
    if installation.user is None:
        return
    yield f"User={installation.user}"
    yield "Group="  # the user's own
    written = _outermost([*written_paths(config), *(t.source for t in config.targets if t.retention.local is not None)])
    if installation.has_links:
        written = _outermost([*written, *(_shared_mount(config, target) for target in config.targets)])
    writable = written if installation.has_links else [t.source for t in config.targets if t.retention.local is not None]
    read = [target.source for target in config.targets if not _is_beneath(target.source, writable)]
    if read:
        yield f"ReadOnlyPaths={_words(_outermost(read))}"
    if written:
        yield f"ReadWritePaths={_words(written)}"
    yield from _shown(read, "BindReadOnlyPaths")
    yield from _shown(written, "BindPaths")


def written_paths(config: Config) -> list[Path]:
    """Return the directories that the service writes to, beside those that the unit itself makes."""
    paths = [config.service.state_dir, *(target.store_dir for target in config.targets if target.store_dir)]
    paths += [file.parent for file in (config.log.file, config.monitor.metrics_file) if file is not None]

    return [path for path in dict.fromkeys(paths) if not _is_beneath(path, (STATE_DIR, LOG_DIR))]


def read_files(config: Config) -> list[Path]:
    """Return the files that the service itself reads, beside its sources."""
    templates = [target.card.template for target in config.targets]
    tokens = [endpoint.token.file for endpoint in _used(config) if endpoint.token]

    return list(dict.fromkeys(path for path in (*config.files, *tokens, *templates) if path is not None))


def is_hidden(path: Path) -> bool:
    """Tell whether the service of a system sees something else in the place of *path*."""
    return _is_beneath(path, _HIDDEN)


def _credentials(config: Config) -> Iterator[str]:
    for name, path in credentials(config).items():
        yield f"LoadCredential={name}:{_escape(path)}"
        yield f"SetCredential={name}:\\n"  # a file that is missing stops its mirrors, not the service


def credentials(config: Config) -> dict[str, Path]:
    """Return the credentials that the config names, each with the file that it is loaded from, beside the config."""
    tokens = [endpoint.token for endpoint in _used(config)]

    return {token.credential: config.path.parent / token.credential for token in tokens if token and token.credential}


def _used(config: Config) -> list[Endpoint]:
    """Return the endpoints that have a mirror."""
    return [config.endpoints[name] for name in sorted({mirror.endpoint for t in config.targets for mirror in t.mirrors})]


def _shared_mount(config: Config, target: Target) -> Path:
    """Return the directory that holds both source and store: hard links do not leave a mount."""
    store = target.store_dir or config.service.state_dir
    shared = next(parent for parent in target.source.parents if parent in store.parents)
    if shared == Path("/"):
        raise UsageError(
            f"{target.name}: {target.source} and {store} have no directory in common that the service could write to",
            hint="set store_dir to a directory beside the source, or leave out --links",
        )

    return shared


def _shown(paths: Iterable[Path], assignment: str) -> Iterator[str]:
    """Yield what makes *paths* visible that the service's own /tmp would hide."""
    hidden = [path for path in paths if is_hidden(path)]
    if hidden:
        yield f"{assignment}={_words(path.as_posix().replace(':', chr(92) + ':') for path in _outermost(hidden))}"


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Return *paths* in order, without those that lie in another one."""
    ordered = sorted(set(paths))
    return [path for path in ordered if not any(other in path.parents for other in ordered)]


def _is_beneath(path: Path, directories: Sequence[Path]) -> bool:
    return any(directory == path or directory in path.parents for directory in directories)


def _words(words: Iterable[str | Path]) -> str:
    """Return *words* as a list of a unit, each in quotes where it needs them."""
    return " ".join(text if _PLAIN.fullmatch(text) else f'"{_quoted(text)}"' for text in map(_escape, words))


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


def _escape(word: str | Path) -> str:
    """Return *word* with nothing that a unit would replace. Raises UsageError for what no unit can say."""
    text = str(word)
    if not text.isprintable():
        raise UsageError(f"{text!r} cannot be written into a unit of systemd", hint="rename it: control characters")

    return text.replace("%", "%%")
