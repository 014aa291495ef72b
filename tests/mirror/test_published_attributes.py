"""What ``.gitattributes`` says is asked of git itself, in a repository that holds the published file."""

import os
import subprocess
from collections.abc import Mapping
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubsync.mirror.attributes import NAME, attributes_to_publish, exact_line
from hubsync.store.git import REGULAR, CommitHeader, FastImport, Git, TreeEntry
from hubsync.store.route import hub_attributes

REF = "refs/heads/main"
HOSTILE = (
    "plain.txt",
    "with space.dat",
    " leading",
    "trailing ",
    'quo"te.dat',
    "'single'.dat",
    "star*.dat",
    "question?.dat",
    "set[ab].dat",
    "[attr]macro",
    "#hash",
    "!bang",
    "-dash",
    ":(top)magic",
    "new\nline",
    "tab\tx",
    "return\r",
    "größe.dat",
    "模型/🤗",
    "a/b/c.dat",
    "a b/c d",
    "\x7f\x01",
    "filter=lfs",
    "x filter=lfs",
    "{brace,s}",
    "**",
    "~tilde",
    "$(x)",
)
names = st.text(st.characters(blacklist_categories=("Cs",), blacklist_characters="/\0\\"), min_size=1, max_size=12).filter(
    lambda name: name not in {".", ".."} and not name.lower().startswith(".git")
)
paths = st.lists(names, min_size=1, max_size=3).map("/".join)


@pytest.fixture
def git(tmp_path: Path) -> Git:
    made = Git(tmp_path / "store.git")
    made.open()
    return made


def commit(git: Git, files: Mapping[str, bytes | TreeEntry | None], parent: str | None = None) -> str:
    changes = {
        path: TreeEntry(REGULAR, git.write_blob(content)) if isinstance(content, bytes) else content
        for path, content in files.items()
    }
    with FastImport(git) as writer:
        return writer.commit(REF, parent, CommitHeader("x <x>", "1 +0000", "1 +0000", "x\n"), changes.items())  # type: ignore[arg-type]


def filters(git: Git, head: str, asked: list[str]) -> dict[str, bool]:
    """Return of each path whether git, in a clone of *head*, takes it for an LFS file."""
    scratch = git.git_dir / "asked"
    subprocess.run(["git", "init", "-q", scratch], check=True)
    subprocess.run(["git", "-C", scratch, "-c", "protocol.allow=always", "fetch", "-q", git.git_dir, head], check=True)
    subprocess.run(["git", "-C", scratch, "read-tree", "FETCH_HEAD"], check=True)
    answer = subprocess.run(
        ["git", "-C", scratch, "check-attr", "--cached", "-z", "--stdin", "filter"],
        input=b"".join(os.fsencode(path) + b"\0" for path in asked), capture_output=True, check=True,
    ).stdout.split(b"\0")[:-1]  # fmt: skip
    return {os.fsdecode(path): value == b"lfs" for path, value in zip(answer[::3], answer[2::3], strict=True)}


def publish(git: Git, head: str | None, pointers: Mapping[str, bool], patterns: tuple[str, ...] = ()) -> str:
    """Commit what has to be said of *pointers* and return the new head."""
    return commit(git, attributes_to_publish(git, head, pointers, patterns), head)


def content(git: Git, head: str, path: str = NAME) -> bytes:
    return dict(git.read_blobs([git.list_tree(head)[path].blob])).popitem()[1]


@pytest.mark.parametrize("is_pointer", [True, False])
def test_a_line_is_for_exactly_its_path(git: Git, is_pointer: bool) -> None:  # noqa: FBT001 - a fact
    """Whatever the name, git reads its line as meant, and no other name is touched by it."""
    wanted = {path: is_pointer if number % 2 else not is_pointer for number, path in enumerate(HOSTILE)}

    head = publish(git, None, wanted)

    assert wanted == filters(git, head, list(wanted))


@settings(max_examples=25)
@given(wanted=st.dictionaries(paths, st.booleans(), min_size=1, max_size=6))
def test_git_agrees_for_any_name(tmp_path_factory: pytest.TempPathFactory, wanted: dict[str, bool]) -> None:
    """Of whatever paths, each pointer has ``filter=lfs`` and no other file has."""
    git = Git(tmp_path_factory.mktemp("any") / "store.git")
    git.open()

    head = publish(git, None, wanted)

    assert wanted == filters(git, head, list(wanted))


def test_neighbours_of_a_hostile_name_are_left_alone(git: Git) -> None:
    """Names that a pattern would match, had its characters a meaning, keep the attributes that they had."""
    wanted = {"star*.dat": True, "question?.dat": True, "set[ab].dat": True, "plain.safetensors": True, "empty.bin": False}
    others = {"star1.dat": False, "questions.dat": False, "seta.dat": False, "x/star*.dat": False, "other.bin": True}

    head = publish(git, None, wanted)

    assert {**wanted, **others} == filters(git, head, [*wanted, *others])


def test_a_new_repository_gets_the_hubs_own_file(git: Git) -> None:
    """Where the Hub's patterns suffice, the file is the Hub's default, byte for byte."""
    head = publish(git, None, {"model.safetensors": True, "config.json": False})

    assert hub_attributes() == content(git, head)


def test_nothing_is_written_where_git_agrees_already(git: Git) -> None:
    """A second publication of the same paths adds no line."""
    wanted = {"weights": True, "empty.bin": False, "config.json": False}
    head = publish(git, None, wanted)

    assert {} == attributes_to_publish(git, head, wanted, ())


def test_what_others_wrote_stays(git: Git) -> None:
    """Their lines stand as they were, at the beginning, also if the last one had no newline."""
    theirs = b"*.txt text eol=crlf\n# a comment\n*.md linguist-documentation"
    head = commit(git, {NAME: theirs})

    after = publish(git, head, {"model.safetensors": True, "notes.txt": False})

    assert content(git, after).startswith(theirs + b"\n")
    assert {"model.safetensors": True, "notes.txt": False} == filters(git, after, ["model.safetensors", "notes.txt"])


def test_attributes_below_the_root_are_overruled_where_they_are(git: Git) -> None:
    """A file of theirs in a directory wins over the root's: the line for a path there goes to the nearest one."""
    head = commit(git, {NAME: hub_attributes(), f"sub/{NAME}": b"* -filter\n", f"sub/deep/{NAME}": b"* filter=lfs\n"})
    wanted = {"sub/model.safetensors": True, "sub/deep/notes.txt": False, "model.safetensors": True}

    after = publish(git, head, wanted)

    assert wanted == filters(git, after, list(wanted))
    assert hub_attributes() == content(git, after)


def test_the_operators_patterns_are_written_once(git: Git) -> None:
    """A pattern of the config stands in the file as it is, and a second publication does not repeat it."""
    head = publish(git, None, {"a.gguf": True}, ("*.gguf",))
    again = publish(git, head, {"b.gguf": True}, ("*.gguf",))

    assert hub_attributes() + b"*.gguf filter=lfs diff=lfs merge=lfs -text\n" == content(git, again)


def test_a_path_that_changes_its_route_changes_its_line(git: Git) -> None:
    """A text that becomes binary and text again is told right each time."""
    head = None
    for is_pointer in (False, True, False, True):
        head = publish(git, head, {"notes": is_pointer}) if head else publish(git, None, {"notes": is_pointer})

        assert {"notes": is_pointer} == filters(git, head, ["notes"])


def test_no_more_is_remembered_than_what_stands(git: Git) -> None:
    """Each commit may bring another text: those of before are forgotten."""
    texts: dict[str, bytes] = {}
    head = None
    for number in range(5):
        head = commit(git, attributes_to_publish(git, head, {f"{number}.dat": True}, (), texts), head)

    assert len(texts) <= 1


def test_an_attributes_file_that_is_a_link_is_not_followed(git: Git) -> None:
    """A symbolic link in that place is no attributes file to git, and is replaced by one."""
    head = commit(git, {NAME: TreeEntry("120000", git.write_blob(b"elsewhere"))})

    after = publish(git, head, {"weights": True})

    assert "100644" == git.list_tree(after)[NAME].mode
    assert {"weights": True} == filters(git, after, ["weights"])


def test_crlf_lines_are_understood(git: Git) -> None:
    """A file that was written on Windows says what git reads in it, and can be extended."""
    head = commit(git, {NAME: b"*.safetensors filter=lfs diff=lfs merge=lfs -text\r\n*.bin filter=lfs\r\n"})
    wanted = {"model.safetensors": True, "weights": True, "empty.bin": False}

    after = publish(git, head, wanted)

    assert wanted == filters(git, after, list(wanted))


def test_no_scratch_stays(git: Git) -> None:
    """The index that git is asked through is gone afterwards."""
    publish(git, None, {"weights": True})

    assert [] == list(git.git_dir.glob("index*"))


@pytest.mark.parametrize(
    ("path", "home", "expected"),
    [
        ("weights", NAME, b"/weights filter=lfs diff=lfs merge=lfs -text"),
        ("a/b", NAME, b"/a/b filter=lfs diff=lfs merge=lfs -text"),
        ("a/b", f"a/{NAME}", b"/b filter=lfs diff=lfs merge=lfs -text"),
        ("a b", NAME, b'"/a b" filter=lfs diff=lfs merge=lfs -text'),
        ("a*", NAME, b"/a\\* filter=lfs diff=lfs merge=lfs -text"),
        ("a* b", NAME, b'"/a\\\\* b" filter=lfs diff=lfs merge=lfs -text'),
    ],
)
def test_a_line_reads_well(path: str, home: str, expected: bytes) -> None:
    """A person finds the path in its line; quotes and escapes stand only where git needs them."""
    assert expected == exact_line(path, home, is_pointer=True)
