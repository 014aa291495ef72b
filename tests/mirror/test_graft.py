from collections.abc import Mapping
from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.mirror.graft import ForeignEdit, Graft, graft, policy_of, with_prefix
from hubsync.store.git import TreeEntry

ONE, TWO, THREE = (TreeEntry("100644", number * 40) for number in "123")
OURS, THEIRS, HALT = {"*": "ours"}, {"*": "theirs"}, {"*": "halt"}

Tree = dict[str, TreeEntry]
paths = st.sampled_from(["README.md", "a", "b", "c/d", "c/e", "f"])
entries = st.builds(TreeEntry, st.sampled_from(["100644", "100755"]), st.sampled_from([n * 40 for n in "123"]))
trees = st.dictionaries(paths, entries)
policies = st.dictionaries(st.sampled_from(["README.md", "c/*", "*"]), st.sampled_from(["ours", "theirs", "halt"]))


def put(tree: Mapping[str, TreeEntry], grafted: Graft) -> Tree:
    """Return *tree* after the graft."""
    merged = {**tree, **grafted.changes}
    return {path: entry for path, entry in merged.items() if entry is not None}


@given(trees, trees, trees, st.sets(paths))
def test_our_paths_end_as_ours(theirs: Tree, last: Tree, ours: Tree, at: set[str]) -> None:
    """Where ours wins, what stands at our paths afterwards is what we have, present or absent."""
    result = put(theirs, graft(at, theirs, last, ours, OURS))

    assert {path: ours[path] for path in at & ours.keys()} == {path: result[path] for path in at & result.keys()}


@given(trees, trees, trees, st.sets(paths), policies)
def test_what_is_not_ours_never_changes(theirs: Tree, last: Tree, ours: Tree, at: set[str], policy: dict[str, str]) -> None:
    """Outside of the paths that we publish nothing of theirs is written, removed or reported."""
    grafted = graft(at, theirs, last, ours, policy)

    assert grafted.changes.keys() <= at
    assert {edit.path for edit in grafted.foreign} <= at
    result = put(theirs, grafted)
    assert {p: e for p, e in theirs.items() if p not in at} == {p: e for p, e in result.items() if p not in at}


@pytest.mark.parametrize("policy", [THEIRS, HALT])
@given(theirs=trees, last=trees, ours=trees, at=st.sets(paths))
def test_their_edits_are_kept_unless_ours_wins(
    policy: dict[str, str], theirs: Tree, last: Tree, ours: Tree, at: set[str]
) -> None:
    """A path that they changed or removed since we left it stays as they have it."""
    result = put(theirs, graft(at, theirs, last, ours, policy))

    edited = {path for path in at if theirs.get(path) != last.get(path) and (path in theirs or path in last)}
    assert {path: theirs.get(path) for path in edited} == {path: result.get(path) for path in edited}


@given(trees, trees, st.sets(paths), policies)
def test_what_they_left_alone_is_ours_to_change(last: Tree, ours: Tree, at: set[str], policy: dict[str, str]) -> None:
    """On a mirror that is as we left it no policy stands in the way, and nothing is foreign."""
    grafted = graft(at, last, last, ours, policy)

    result = put(last, grafted)
    assert {path: ours.get(path) for path in at} == {path: result.get(path) for path in at}
    assert () == grafted.foreign


@given(trees, trees, trees, st.sets(paths), policies)
def test_to_graft_again_changes_nothing(theirs: Tree, last: Tree, ours: Tree, at: set[str], policy: dict[str, str]) -> None:
    """After a graft, the same one on the result has nothing to write: a repeated publication is no new commit."""
    result = put(theirs, graft(at, theirs, last, ours, policy))

    assert {} == graft(at, result, last, ours, policy).changes


@given(trees, trees, trees, st.sets(paths), policies)
def test_a_halt_names_its_paths(theirs: Tree, last: Tree, ours: Tree, at: set[str], policy: dict[str, str]) -> None:
    """The paths that halt are those whose policy says so, and none of them is written."""
    grafted = graft(at, theirs, last, ours, policy)

    assert all("halt" == policy_of(path, policy) for path in grafted.halted)
    assert not set(grafted.halted) & grafted.changes.keys()


def test_their_own_version_of_what_we_would_put_is_no_edit() -> None:
    """If they committed the very content that we have, nothing is to do and nobody is told."""
    assert Graft({}, ()) == graft(["a"], {"a": TWO}, {"a": ONE}, {"a": TWO}, HALT)


def test_a_file_that_was_there_before_us_is_theirs() -> None:
    """The first publication on a repository meets a README that a person wrote: it stays."""
    grafted = graft(["README.md", "a"], {"README.md": ONE}, {}, {"README.md": TWO, "a": TWO}, {"README.md": "theirs"})

    assert {"a": TWO} == grafted.changes
    assert (ForeignEdit("README.md", "theirs"),) == grafted.foreign


def test_a_path_that_they_removed_comes_back_only_if_ours_wins() -> None:
    """A removal is an edit as any other."""
    facts = (["a"], {}, {"a": ONE}, {"a": ONE})

    assert {"a": ONE} == graft(*facts, OURS).changes
    assert {} == graft(*facts, THEIRS).changes
    assert ("a",) == graft(*facts, HALT).halted


def test_our_removal_of_what_they_changed_is_an_edit() -> None:
    """What we would remove and they rewrote is removed only if ours wins."""
    facts = (["a"], {"a": TWO}, {"a": ONE}, {})

    assert {"a": None} == graft(*facts, OURS).changes
    assert {} == graft(*facts, THEIRS).changes


def test_a_change_of_mode_is_a_change() -> None:
    """Their executable bit on our file is an edit; ours on an untouched file is written."""
    executable = TreeEntry("100755", ONE.blob)

    assert {} == graft(["a"], {"a": executable}, {"a": ONE}, {"a": ONE}, THEIRS).changes
    assert {"a": executable} == graft(["a"], {"a": ONE}, {"a": ONE}, {"a": executable}, THEIRS).changes


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("README.md", "theirs"),
        ("sub/README.md", "theirs"),
        ("docs/a.txt", "halt"),
        ("docs/deep/a.txt", "halt"),
        ("readme.md", "ours"),
        ("model.safetensors", "ours"),
    ],
)
def test_a_policy_is_that_of_the_first_pattern_that_matches(path: str, expected: str) -> None:
    """A pattern matches the whole path or the name; ``*`` is what is left, wherever it stands."""
    assert expected == policy_of(path, {"*": "ours", "README.md": "theirs", "docs/*": "halt"})


def test_without_a_policy_ours_wins() -> None:
    """An empty table is that of the default."""
    assert "ours" == policy_of("a", {})


@pytest.mark.parametrize(("prefix", "expected"), [("", "a/b"), (".", "a/b"), ("x", "x/a/b"), ("x/y", "x/y/a/b")])
def test_a_prefix_moves_a_path(prefix: str, expected: str) -> None:
    """``path_in_repo`` stands before each path; the root is no prefix."""
    assert expected == with_prefix(PurePosixPath(prefix), "a/b")
