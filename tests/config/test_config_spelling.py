import contextlib
from pathlib import PurePosixPath

import pytest
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from hypothesis import given
from hypothesis import strategies as st

from hubsync.config.repo import RepoSpec, parse_branch, parse_name, parse_path_in_repo, parse_repo
from hubsync.config.urls import is_plain_http_abroad, parse_url


@pytest.mark.parametrize(
    ("text", "spec", "shortest"),
    [
        ("acme/x", RepoSpec("hub", "model", "acme/x", "main"), "acme/x"),
        ("hub:acme/x@main", RepoSpec("hub", "model", "acme/x", "main"), "acme/x"),
        ("datasets/acme/x", RepoSpec("hub", "dataset", "acme/x", "main"), "datasets/acme/x"),
        ("onprem:spaces/team/y@dev/1", RepoSpec("onprem", "space", "team/y", "dev/1"), "onprem:spaces/team/y@dev/1"),
        ("datasets/x", RepoSpec("hub", "model", "datasets/x", "main"), "datasets/x"),
        ("acme/x@a@b", RepoSpec("hub", "model", "acme/x", "a@b"), "acme/x@a@b"),
    ],
)
def test_a_mirror_is_spelt_in_one_line(text: str, spec: RepoSpec, shortest: str) -> None:
    """Endpoint, kind, repository and branch are read, and spelt as short as possible."""
    read = parse_repo(text)

    assert spec == read
    assert shortest == str(read)
    assert read == parse_repo(shortest)


@pytest.mark.parametrize(
    "value",
    ["", "x", "a/b/c", "models/a/b", "/x", "x/", "a/-b", "a/b-", "a/b.", ".a/b", "a/b--c", "a/b..c", "a/b.git", "a/b c",
     "ä/b", "a/" + "b" * 97, "a/b@", "a/b@x..y", "a/b@-x", "a/b@x.lock", "a/b@refs/heads/x", "a/b@HEAD", "a/b@x y",
     "a/b@x\n", ":a/b", "a b:a/b", "x:y:a/b", "https://huggingface.co/a/b", "a/b\n", 7, None],
)  # fmt: skip
def test_what_is_no_mirror_is_refused(value: object) -> None:
    """A spelling that the Hub or git would refuse is refused here, and not repeated."""
    with pytest.raises(ValueError, match=r"write|use up to") as caught:
        parse_repo(value)

    assert not isinstance(value, str) or len(value) < 3 or value not in str(caught.value)


@given(st.from_regex(r"[A-Za-z0-9._-]{1,8}/[A-Za-z0-9._-]{1,8}", fullmatch=True))
def test_every_accepted_repository_is_valid_for_the_hub(repo_id: str) -> None:
    """What is accepted here, huggingface_hub accepts as well."""
    try:
        parse_repo(repo_id)
    except ValueError:
        return

    validate_repo_id(repo_id)


@pytest.mark.parametrize("repo_id", ["a/b", "A-1/b_2.c", "_a/b_", "a/" + "b" * 96])
def test_every_usual_repository_is_accepted(repo_id: str) -> None:
    """The limits are the Hub's own."""
    validate_repo_id(repo_id)

    assert repo_id == parse_repo(repo_id).repo_id


def test_the_limits_are_not_looser_than_the_hubs() -> None:
    """One character more is refused by both."""
    with pytest.raises(HFValidationError):
        validate_repo_id("a/" + "b" * 97)
    with pytest.raises(ValueError, match="refuses"):
        parse_repo("a/" + "b" * 97)


@pytest.mark.parametrize("text", ["main", "run-7", "a/b", "v1.0", "é"])
def test_usual_branches_are_accepted(text: str) -> None:
    """A branch may be nested."""
    assert text == parse_branch(text)


@pytest.mark.parametrize(
    "text",
    ["", "@", "a//b", "/a", "a/", "a/.b", ".a", "a.", "a~1", "a^", "a:b", "a?", "a*", "a[b", "a\\b", "a@{b", "a\x7f"],
)
def test_branches_that_git_refuses_are_refused(text: str) -> None:
    """The rules are those of git check-ref-format."""
    with pytest.raises(ValueError, match="git refuses"):
        parse_branch(text)


@pytest.mark.parametrize("text", ["a", "llama-sft", "0.x_Y", "a" * 64])
def test_usual_names_are_accepted(text: str) -> None:
    """A name is safe in a path, a ref and a log."""
    assert text == parse_name(text)


@pytest.mark.parametrize("value", ["", ".a", "-a", "a/b", "a b", "a:b", "a" * 65, "ä", "a\n", 1, None])
def test_odd_names_are_refused(value: object) -> None:
    """A name cannot leave its directory."""
    with pytest.raises(ValueError, match="no usable name"):
        parse_name(value)


@pytest.mark.parametrize(
    ("text", "path"), [("", "."), ("a", "a"), ("a/b/", "a/b"), (".github/x", ".github/x"), ("a b/ü", "a b/ü")]
)
def test_a_place_in_the_repository_is_relative(text: str, path: str) -> None:
    """The empty path is the root."""
    assert PurePosixPath(path) == parse_path_in_repo(text)


@pytest.mark.parametrize(
    "value",
    [
        "/",
        "/a",
        "..",
        "a/../b",
        "./a",
        "a//b",
        "a\\b",
        ".git",
        "a/.GIT/b",
        "git~1",
        ".git ",
        "a\nb",
        "a\x00",
        "x" * 256,
        1,
        None,
    ],
)
def test_places_that_git_refuses_are_refused(value: object) -> None:
    """Nothing reaches out of the repository or into git's own directory, on any file system."""
    with pytest.raises(ValueError, match="must be a"):
        parse_path_in_repo(value)


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("https://huggingface.co", "https://huggingface.co"),
        ("HTTPS://HuggingFace.co:443/", "https://huggingface.co"),
        ("http://127.0.0.1:8080/hub/", "http://127.0.0.1:8080/hub"),
        ("https://[2001:0db8::1]:8443", "https://[2001:db8::1]:8443"),
        ("https://hub_1.internal/a~b/c.d", "https://hub_1.internal/a~b/c.d"),
    ],
)
def test_urls_have_one_spelling(text: str, url: str) -> None:
    """Case, default ports and the last slash do not matter."""
    assert url == parse_url(text)
    assert url == parse_url(url)


@pytest.mark.parametrize(
    "value",
    ["", "huggingface.co", "ftp://h", "file:///etc", "https://", "https://user:secret@h", "https://secret@h", "https://h?a=1",
     "https://h#a", "https://h:0", "https://h:65536", "https://h:x", "https://h/..", "https://h/a/../b", "https://h//a",
     "https://h/a b", "https://h\n", "https://h/\r\nHost: x", "https://h%0a", "https://-h", "https://[::g]",
     "https://[::1", "https://é", "https://h\\@x", 1, None],
)  # fmt: skip
def test_other_urls_are_refused(value: object) -> None:
    """Only plain URLs pass, and no secret is repeated."""
    with pytest.raises(ValueError, match=r"must|has a") as caught:
        parse_url(value)

    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "is_abroad"),
    [
        ("https://h", False),
        ("http://localhost:1", False),
        ("http://127.9.9.9", False),
        ("http://[::1]:1", False),
        ("http://h", True),
        ("http://127.0.0.1.evil.example", True),
        ("http://127.1", True),
        ("http://localhost.evil.example", True),
        ("http://10.0.0.1", True),
        ("http://[::2]", True),
        ("http://0.0.0.0", True),
    ],
)
def test_plain_http_is_for_this_host_only(url: str, *, is_abroad: bool) -> None:
    """What resolves to another host, or might, counts as abroad."""
    assert is_abroad == is_plain_http_abroad(parse_url(url))


@given(st.one_of(st.text(), st.none(), st.integers(), st.binary()))
def test_any_value_is_read_or_refused(value: object) -> None:
    """Nothing but ValueError is raised."""
    for parse in (parse_repo, parse_name, parse_path_in_repo, parse_url):
        with contextlib.suppress(ValueError):
            parse(value)
