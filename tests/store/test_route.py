import hashlib

import pytest

from hubsync.store.route import HUB_PATTERNS, Route, RouteRules, choose_route, choose_route_by_content, hub_attributes

THRESHOLD = 5_000_000
RULES = RouteRules(("*.dat", "raw/**"), THRESHOLD)


def test_the_default_attributes_are_those_of_the_hub() -> None:
    """A repository that we begin has, byte for byte, the .gitattributes that the Hub gives a new one."""
    content = hub_attributes()

    blob = hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()
    assert "a6344aac8c09253b3b630fb776ae94478aa0275b" == blob


@pytest.mark.parametrize(
    ("path", "pattern"),
    [
        ("model.safetensors", "*.safetensors"),
        ("a/b/pytorch_model.bin", "*.bin"),
        ("events.out.tfevents.1700000000.host", "*tfevents*"),
        ("data.tar.gz", "*.tar.*"),
        ("x.lfs.y", "*.lfs.*"),
        ("saved_model/variables/variables.index", "saved_model/**/*"),
        ("saved_model/keras_metadata", "saved_model/**/*"),
        ("deep/below/a.dat", "*.dat"),
        ("raw/notes.txt", "raw/**"),
    ],
)
def test_a_pattern_sends_a_file_through_lfs(path: str, pattern: str) -> None:
    """A pattern of the Hub or of the operator decides whatever the content; the last that matches, as in git."""
    routing = choose_route(path, 10, RULES)

    assert routing is not None
    assert (Route.LFS, f"lfs pattern {pattern!r}") == (routing.route, routing.reason)


@pytest.mark.parametrize("path", ["model.SAFETENSORS", "bin", "x/saved_model/y", "a.bin.txt", "not-raw/notes.txt"])
def test_a_name_that_only_resembles_a_pattern_matches_none(path: str) -> None:
    """Patterns match as git matches attributes: whole names, with case, from the root if they have a slash."""
    assert choose_route(path, 10, RULES) is None


@pytest.mark.parametrize(
    ("size", "expected"), [(THRESHOLD - 1, None), (THRESHOLD, Route.LFS), (500_000_000_000, Route.LFS)]
)
def test_a_large_file_goes_through_lfs(size: int, expected: Route | None) -> None:
    """From the threshold on the name does not matter."""
    routing = choose_route("tokenizer.json", size, RULES)

    assert expected == (routing and routing.route)


@pytest.mark.parametrize("path", ["empty.bin", "empty.txt", "raw/empty"])
def test_an_empty_file_is_ordinary_content(path: str) -> None:
    """There is no object of no bytes: an empty file stands in git, even where a pattern names it."""
    routing = choose_route(path, 0, RULES)

    assert routing is not None
    assert Route.GIT == routing.route


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"plain text\n", Route.GIT),
        ("größe 模型 🤗".encode(), Route.GIT),
        (b"\xef\xbb\xbfwith a byte order mark", Route.GIT),
        (b"\x7fELF\0\1", Route.LFS),
        ("UTF-16".encode("utf-16"), Route.LFS),
        ("größe".encode("latin-1"), Route.LFS),
        (b"\x89PNG\r\n\x1a\n", Route.LFS),
        (b"\xed\xa0\x80", Route.LFS),
        (b"text" * 100_000 + b"\0", Route.LFS),
    ],
)
def test_small_binary_content_goes_through_lfs(content: bytes, expected: Route) -> None:
    """A Hub refuses binary content in git at any size; only text that is UTF-8 stays there."""
    assert expected == choose_route_by_content(content).route


def test_no_pattern_is_lost() -> None:
    """Each pattern of the Hub is in the attributes, in the Hub's order."""
    lines = hub_attributes().decode().splitlines()

    assert list(HUB_PATTERNS) == [line.split(" ")[0] for line in lines]
    assert {"filter=lfs diff=lfs merge=lfs -text"} == {line.split(" ", 1)[1] for line in lines}
