import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hubsync.config.model import Config
from hubsync.errors import ConfigError

MINIMAL = '[[target]]\nname = "a"\nsource = "runs"\nmirrors = ["acme/a"]\n'

Load = Callable[..., Config]
Report = Callable[..., list[str]]


def test_a_name_belongs_to_one_target(report: Report) -> None:
    """The second one is told where the first one stands, also in another file."""
    other = '[[target]]\nname = "a"\nsource = "other"\nmirrors = ["acme/b"]'

    assert [
        "b.toml:2:1: error: target[0].name: is taken by target[0].name (hubsync.toml:3); give each target a name of its own"
    ] == report('include = ["b.toml"]\n' + MINIMAL, b=other)


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        ('"acme/a"', '"acme/a"', True),
        ('"acme/a"', '"Acme/A@main"', True),
        ('"acme/a"', '"same:acme/a"', True),
        ('"acme/a"', '"hub:acme/a@dev"', False),
        ('"acme/a"', '"datasets/acme/a"', False),
        ('"acme/a"', '"other:acme/a"', False),
        ('"acme/a"', '{ repo = "acme/a", path_in_repo = "x" }', True),
        ('{ repo = "acme/a", path_in_repo = "x" }', '{ repo = "acme/a", path_in_repo = "x/y" }', True),
        ('{ repo = "acme/a", path_in_repo = "x" }', '{ repo = "acme/a", path_in_repo = "xy" }', False),
    ],
)
def test_no_two_targets_publish_to_one_place(
    load: Load, tmp_path: Path, first: str, second: str, *, is_refused: bool
) -> None:
    """A place is a Hub's URL, a repository in any case, a branch, and a directory with what lies below it."""
    text = (
        'endpoint.same.url = "https://HuggingFace.co:443/"\nendpoint.other.url = "https://hub.example"\n'
        f'[[target]]\nname = "a"\nsource = "a"\nmirrors = [{first}]\n'
        f'[[target]]\nname = "b"\nsource = "b"\nmirrors = [{second}]'
    )
    if not is_refused:
        assert 2 == len(load(text).targets)
        return

    with pytest.raises(ConfigError, match="publishes to the same place as ") as caught:
        load(text)

    assert re.match(r".*hubsync.toml:10:1[24]: error: target\[1\].mirrors\[0\](.repo)?: ", str(caught.value))
    assert re.search(
        rf" as target\[0\].mirrors\[0\](.repo)? \({tmp_path}/hubsync.toml:6\); give one of them", str(caught.value)
    )


def test_the_mirrors_of_a_target_have_names_of_their_own(report: Report) -> None:
    """Two directories of one repository are told apart by a name."""
    lines = report(
        '[[target]]\nname = "a"\nsource = "a"\n'
        'mirrors = [{ repo = "a/b", path_in_repo = "x" }, { repo = "a/b", path_in_repo = "y" }]'
    )

    assert ["hubsync.toml:4:52: error: target[0].mirrors[1].repo"] == [
        line.split(": has the same name")[0] for line in lines
    ]


@pytest.mark.parametrize(
    ("first", "second", "is_refused"),
    [
        ("real", "real", True),
        ("real", "real/sub", True),
        ("real/sub", "real", True),
        ("real", "link", True),
        ("real", "link/sub", True),
        ("real", "real/../real", True),
        ("real", "link/not/there", True),
        ("none", "none/sub", True),
        ("real", "real2", False),
        ("real", "none", False),
    ],
)
def test_no_two_sources_overlap(load: Load, tmp_path: Path, first: str, second: str, *, is_refused: bool) -> None:
    """Whatever they are called: links and parents lead to the same files. A source need not exist."""
    (tmp_path / "real/sub").mkdir(parents=True)
    (tmp_path / "real2").mkdir()
    (tmp_path / "link").symlink_to("real")
    text = "".join(
        f'[[target]]\nname = "t{index}"\nsource = "{name}"\nmirrors = ["a/{index}"]\n'
        for index, name in enumerate((first, second))
    )
    if not is_refused:
        assert tmp_path / second == load(text).targets[1].source
        return

    with pytest.raises(
        ConfigError, match=re.escape(f"hubsync.toml:7:1: error: target[1].source: overlaps target[0].source ({tmp_path}")
    ):
        load(text)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ('service.state_dir = "runs/state"', "service.state_dir"),
        ('service.state_dir = "."', "service.state_dir"),
        ('service.state_dir = "link"', "service.state_dir"),
        ('defaults.store_dir = "runs"', "defaults.store_dir"),
        ('log.file = "runs/hubsync.jsonl"', "log.file"),
    ],
)
def test_hubsync_does_not_watch_its_own_files(report: Report, tmp_path: Path, line: str, key: str) -> None:
    """State, stores and log lie outside of every source, and no source in them."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "link").symlink_to("runs")
    lines = report(f"{line}\n{MINIMAL}")

    assert [f"error: {key}: overlaps target[0].source (hubsync.toml:4); hubsync must not watch its own files"] == [
        found.split(": ", 1)[1].split(", so")[0] for found in lines
    ]


def test_a_store_beside_the_source_is_fine(load: Load, tmp_path: Path) -> None:
    """A log or store next to a source is no part of it."""
    config = load(f'log.file = "hubsync.jsonl"\ndefaults.store_dir = "runs.store"\n{MINIMAL}')

    assert tmp_path / "runs.store" == config.targets[0].store_dir


def test_an_endpoint_is_declared_once(report: Report) -> None:
    """Also over several files."""
    lines = report('include = ["b.toml"]\nendpoint.x.url = "https://h"\n' + MINIMAL, b='[endpoint.x]\nurl = "https://i"')

    assert ["b.toml:1:1: error: endpoint.x: is declared twice, also as endpoint.x (hubsync.toml:2); join the two"] == lines
