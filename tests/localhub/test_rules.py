"""What the Hub takes, decided on paper."""

import pytest

from hubsync.localhub.rules import Pointer, card_errors, card_metadata, is_binary, read_pointer

OID = "a" * 64


def test_a_pointer_reads_as_it_was_written() -> None:
    """The canonical text is understood."""
    assert Pointer(OID, 12) == read_pointer(Pointer(OID, 12).encode())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"version https://git-lfs.github.com/spec/v1\n",
        Pointer(OID, 12).encode() + b"more\n",
        Pointer(OID.upper(), 12).encode(),
        Pointer(OID[1:], 12).encode(),
        b"\n" + Pointer(OID, 12).encode(),
        Pointer(OID, 12).encode() + b"\n" * 1024,
    ],
)
def test_what_is_no_pointer_is_a_file(content: bytes) -> None:
    """Something close to a pointer is not one."""
    assert read_pointer(content) is None


@pytest.mark.parametrize(
    ("content", "expected"),
    [(b"text", False), ("Zürich".encode("latin-1"), False), (b"\0", True), (b"x" * 8000 + b"\0", False), (b"", False)],
)
def test_a_zero_byte_makes_a_file_binary(content: bytes, expected: object) -> None:
    """In its first 8,000 bytes, as git sees it."""
    assert expected is is_binary(content)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "# Card\n\n---\nnot: [metadata\n---\n",
        "---\n---\n",
        "---\nlicense: mit\n---\n# Card",
        "---\nlicense: [mit, other]\ntags: [a]\nlanguage: en\nextra: {a: 1}\n---\n",
        "---\r\nlicense: mit\r\n---\r\n",
        "---\nmodel-index:\n- name: a\n  results: []\n---\n",
        "---\n",
    ],
)
def test_sound_cards_pass(content: str) -> None:
    """With metadata or without."""
    assert [] == card_errors(content)


@pytest.mark.parametrize(
    ("metadata", "expected"),
    [
        ("license: 5", '"license" must be a string or an array of strings'),
        ("tags: [a, 1]", '"tags" must be a string or an array of strings'),
        ("pipeline_tag: [a]", '"pipeline_tag" must be a string'),
        ("model-index: [{name: a}]", '"model-index" must be an array of objects with a name and results'),
        (f"short_description: {'x' * 61}", '"short_description" length must be less than or equal to 60 characters long'),
        ("- a\n- b", "YAML metadata must be an object"),
    ],
)
def test_bad_metadata_is_named(metadata: str, expected: str) -> None:
    """The field and what it must be."""
    assert [expected] == card_errors(f"---\n{metadata}\n---\n")


@pytest.mark.parametrize("metadata", ["license: apache2", "license: [mit, mine]"])
def test_a_license_is_one_that_the_hub_knows(metadata: str) -> None:
    """The answer lists them."""
    (error,) = card_errors(f"---\n{metadata}\n---\n")

    assert error.startswith('"license" must be one of [apache-2.0, mit, ')


@pytest.mark.parametrize("metadata", ["a: {", "a: b: c", "\t- x", "date: 2024-99-99"])
def test_metadata_that_is_no_yaml_is_refused(metadata: str) -> None:
    """With the parser's words, in one line."""
    (error,) = card_errors(f"---\n{metadata}\n---\n")

    assert error.startswith("YAML metadata is invalid: ")
    assert "\n" not in error


def test_metadata_is_given_only_when_sound() -> None:
    """A card with errors has none."""
    assert {"license": "mit"} == card_metadata("---\nlicense: mit\n---\n")
    assert {} == card_metadata("---\nlicense: 1\n---\n")
    assert {} == card_metadata("no metadata")
