import time

import pathspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.watch.rules import PathRules, Ruling

TEMPORARY = [
    ".tmpAb3xZ9",
    ".tmp",
    "model.safetensors.tmp",
    "model.tmp.1234",
    "weights.incomplete",
    "a.partial",
    "a.part",
    "a.crdownload",
    "a.aria2",
    "training.lock",
    ".~lock.notes.odt#",
    "~$notes.docx",
    ".model.py.swp",
    "config.json~",
    ".#config.json",
    ".nfs000000000003",
    ".model.safetensors.Ab12Cd",
    "tmpab12_d3x",
    ".metadata.tmp",
    "x.orbax-checkpoint-tmp-17",
    "ckpt.tempstate123",
]
FINAL = [
    "model.safetensors",
    ".metadata",
    ".model.config",
    "tmp.json",
    "temperature.json",
    "template.jinja",
    "partial.json",
    "events.out.tfevents.1",
    "optimizer.pt",
    "..a.json",
]


@pytest.mark.parametrize("name", TEMPORARY)
def test_temporary_names_are_never_taken(name: str) -> None:
    """A name that writers use for unfinished files is refused anywhere, even where an include pattern names it."""
    rules = PathRules(include=("**", "!nothing", name))

    ruling = rules.verdict(f"checkpoint-1/{name}")

    assert not ruling.taken
    assert ruling.reason.startswith("temporary name")


@pytest.mark.parametrize("name", FINAL)
def test_final_names_are_taken(name: str) -> None:
    """A name that only looks a little like a temporary one is taken."""
    assert PathRules().verdict(f"checkpoint-1/{name}").taken


def test_what_a_staging_directory_holds_is_not_taken() -> None:
    """A temporary directory name counts for all below it."""
    ruling = PathRules().verdict("tmp-checkpoint-500/deep/model.safetensors")

    assert Ruling(False, "temporary name 'tmp-checkpoint-*' (on tmp-checkpoint-500/)") == ruling
    assert not PathRules().verdict(".cache/huggingface/x.json").taken
    assert PathRules().verdict(".cache").taken  # a file of that name


def test_the_reason_names_the_exclude_pattern() -> None:
    """The operator reads which of the patterns it was."""
    rules = PathRules(exclude=("*.log", "wandb/"))

    assert Ruling(False, "exclude pattern '*.log'") == rules.verdict("a/b.log")
    assert Ruling(False, "exclude pattern 'wandb/' (on wandb/)") == rules.verdict("wandb/run/x.json")
    assert Ruling(False, "exclude pattern 'wandb/'") == rules.verdict("wandb", is_dir=True)
    assert rules.verdict("wandb").taken


def test_a_later_negation_takes_a_file_back() -> None:
    """As in a .gitignore, the last matching pattern wins, but not below an excluded directory."""
    rules = PathRules(exclude=("*.log", "!keep.log", "/out/"))

    assert rules.verdict("keep.log").taken
    assert not rules.verdict("out/keep.log").taken
    assert rules.verdict("sub/out/keep.log").taken


def test_include_takes_only_what_it_names() -> None:
    """With include patterns all else is left out, but directories are still entered."""
    rules = PathRules(include=("checkpoint-*/", "*.json"))

    assert rules.verdict("checkpoint-1/deep/x.bin").taken
    assert rules.verdict("a/config.json").taken
    assert Ruling(False, "no include pattern matches") == rules.verdict("a/x.bin")
    assert rules.verdict("a", is_dir=True).taken


def test_a_path_of_absurd_depth_is_refused() -> None:
    """Thousands of directories below each other exhaust neither the stack nor the descriptors."""
    assert Ruling(False, "deeper than 100 directories") == PathRules().verdict("d/" * 2000 + "f")
    assert PathRules().verdict("d/" * 100 + "f").taken


NAMES = st.sampled_from(["a", "b", "keep.log", "x.log", "x.bin", "run"])
PATTERNS = ["*.log", "!keep.log", "/a", "a/b", "run/", "**/x.bin", "b/**", "a/**/x.log", "# note", "", "!run/", "?", "\\#a"]


@given(st.lists(NAMES, min_size=1, max_size=4), st.lists(st.sampled_from(PATTERNS), max_size=5))
def test_exclusion_is_gitignores(parts: list[str], patterns: list[str]) -> None:
    """The quick answer is the one that the patterns give when each parent is asked as a directory."""
    spec = pathspec.GitIgnoreSpec.from_lines(patterns)
    asked = ["/".join(parts[:depth]) + "/" for depth in range(1, len(parts))] + ["/".join(parts)]

    expected = not any(spec.match_file(path) for path in asked)

    assert expected == PathRules(exclude=patterns).verdict("/".join(parts)).taken


@given(
    st.sampled_from([*TEMPORARY, *FINAL, "keep.log", "x.log", "x.bin", "a", "run"]),
    st.sampled_from(["", "a/", "run/a/"]),
    st.lists(st.sampled_from(PATTERNS), max_size=5),
)
def test_an_ordinary_name_is_taken(name: str, above: str, patterns: list[str]) -> None:
    """What needs no closer look is taken by the closer look."""
    rules = PathRules(exclude=patterns)

    assert not rules.is_ordinary(above + name, name) or rules.verdict_below_taken(above + name, name).taken
    assert PathRules().is_ordinary("a/model.safetensors", "model.safetensors")


def test_a_hundred_thousand_paths_take_less_than_a_second() -> None:
    """Rules must not dominate an inventory."""
    rules = PathRules(include=("checkpoint-*/", "*.json"), exclude=("*.log", "wandb/", "/runs/**", "!keep.log", "*.bak"))
    paths = [f"checkpoint-{i // 100}/part{i % 7}/model-{i:05}.safetensors" for i in range(100_000)]
    times = []
    for _ in range(3):
        started = time.process_time()
        for path in paths:
            rules.verdict(path)
        times.append(time.process_time() - started)

    assert min(times) < 1


@given(
    st.lists(
        st.sampled_from([*TEMPORARY, *FINAL, "keep.log", "x.log", "a"]).filter(lambda name: "/" not in name), min_size=1
    ),
    st.lists(st.sampled_from(PATTERNS), max_size=5),
)
def test_names_that_are_ordinary_together_are_so_one_by_one(names: list[str], patterns: list[str]) -> None:
    """One question for a whole directory is answered as all of its files would answer it."""
    rules = PathRules(exclude=patterns)

    assert not rules.are_ordinary("/".join(names)) or all(rules.is_ordinary(f"a/{name}", name) for name in names)
    assert PathRules(exclude=["*.tmp", ".git/"]).are_ordinary("model.safetensors/config.json")
