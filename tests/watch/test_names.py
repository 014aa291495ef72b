from pathlib import Path

import pytest
from huggingface_hub._local_folder import get_local_download_paths
from hypothesis import given
from hypothesis import strategies as st

from hubsync.watch.names import Kind, are_plain, is_plain, judge_length, judge_name, judge_names


@pytest.mark.parametrize(
    "name",
    [
        ".GIT", ".Git", "git~1", "GIT~1", ".git.", ".git ", ".git. .", ".git::$INDEX_ALLOCATION", ".g\u200cit",
        "\ufeff.git",
        ".GitAttributes", "gitatt~1", "GI7D29~2", ".gitmodules", "GITMOD~3", ".lfsconfig", ".lfsConfig ",
        "a:b.txt", "C:", "é:x", " :x", "x" * 247, "é" * 124,
        "a\\b", "..\\.git\\config", "bad\udcff", ".", "..", "",
    ],
)  # fmt: skip
def test_names_that_a_hub_cannot_hold_are_rejected(name: str) -> None:
    """Every spelling that some file system folds to a reserved name is refused, with a reason."""
    skip = judge_name(name)

    assert skip is not None
    assert Kind.REJECTED is skip.kind
    assert skip.reason
    assert not (name and is_plain(f"d/{name}", name))


@pytest.mark.parametrize("name", [".git", ".gitattributes"])
def test_what_every_clone_has_is_ignored_quietly(name: str) -> None:
    """A clone has a .git directory and a .gitattributes, and nobody wants to be told."""
    assert Kind.IGNORED is judge_name(name).kind


@pytest.mark.parametrize(
    "name",
    [
        ".gitignore",
        "git",
        "git~2",
        "github",
        ".github",
        "lfs",
        "général.json",
        "模型.bin",
        "a\tb",
        "-rf",
        ".gitkeep",
        "gi7d29",
        "ab:c",
        "x" * 246,
        "é" * 123,
    ],
)
def test_other_names_are_fine(name: str) -> None:
    """What merely resembles a reserved name is taken, and so is any UTF-8."""
    assert judge_name(name) is None


def test_any_part_of_a_path_counts() -> None:
    """A reserved name in the middle refuses the path."""
    assert judge_names("a/.git/config") is not None
    assert judge_names("a/b/config.json") is None
    assert judge_names("a//b") is not None


@pytest.mark.parametrize(
    "path", ["a:b.txt", "d/C:x", "d:/x", "x" * 247, "a/../b", "ab:c", "::x", "aux", "x" * 246, "é" * 123]
)
def test_what_is_taken_can_be_downloaded(tmp_path: Path, path: str) -> None:
    """huggingface_hub, which refuses a whole repository for one name, refuses none that we take."""
    try:
        get_local_download_paths(tmp_path, path).metadata_path.touch()
    except (ValueError, OSError):
        assert judge_names(path) is not None


def test_a_long_name_of_a_directory_is_fine() -> None:
    """Only files get a longer name beside them."""
    assert judge_names("x" * 250 + "/a") is None


@pytest.mark.parametrize("name", ["a:b", "a\\b", ".gitmodules", "x" * 250, "\udcff"])
def test_a_refused_name_has_a_cure(name: str) -> None:
    """The operator learns what to do, not only that it is refused."""
    assert "rename" in judge_name(name).hint


@given(st.text(st.sampled_from("ab.:\\gGé\u200c~1/"), min_size=1), st.integers(0, 300))
def test_a_plain_name_is_taken(name: str, length: int) -> None:
    """What is told by one look is told so by all."""
    name = f"{name.replace('/', '')}{'x' * length}" or "x"
    path = f"a/{name}"

    assert not is_plain(path, name) or (judge_name(name), judge_length(path)) == (None, None)
    assert is_plain("a/f1.txt", "f1.txt")


@given(st.lists(st.text(st.sampled_from("ab.:\\gGé"), min_size=1), min_size=1), st.integers(0, 250))
def test_names_that_are_plain_together_are_so_one_by_one(names: list[str], length: int) -> None:
    """One question for a whole directory is answered as all of its files would answer it."""
    prefix = f"{'d' * length}/"

    assert are_plain(prefix, "/".join(names)) == all(is_plain(prefix + name, name) for name in names)
