import json
import tomllib
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from hubsync.config.positions import Loc, Place, find_places

TEXT = '''\
# [not.a.table]
version = 1
"quo\\u0074ed \\"key\\"" = """
[[target]]
name = "in text" \\"""""
a.b . 'c' = [ # [comment
  1, "]",
  { x = 1, y.z = [ [], QQQ]QQQ ] },
]
[x.y]
k = 'it'
'''.replace("QQQ", "'" * 3)

TARGETS = """\
[[target]]
name = "one"
[[target.deep]]
k = 1
[[target.deep]]
k = 2
[target.card]
enabled = true

  [[target]]
name = "two"
[target . card]
  enabled = false
"""


def test_keys_and_items_are_found_behind_strings_and_comments() -> None:
    """What looks like TOML inside of text or comments is not taken for it."""
    places = find_places(TEXT)

    assert Place(2, 1) == places.find(("version",))
    assert Place(3, 1) == places.find(('quoted "key"',))
    assert Place(6, 1) == places.find(("a",))
    assert Place(6, 7) == places.find(("a", "b", "c"))
    assert Place(7, 6) == places.find(("a", "b", "c", 1))
    assert Place(8, 5) == places.find(("a", "b", "c", 2, "x"))
    assert Place(8, 24) == places.find(("a", "b", "c", 2, "y", "z", 1))
    assert Place(10, 1) == places.find(("x", "y"))
    assert Place(11, 1) == places.find(("x", "y", "k"))


def test_tables_in_lists_are_counted() -> None:
    """A key below [[...]] belongs to the last of the list so far."""
    places = find_places(TARGETS)

    assert Place(1, 1) == places.find(("target", 0))
    assert Place(4, 1) == places.find(("target", 0, "deep", 0, "k"))
    assert Place(6, 1) == places.find(("target", 0, "deep", 1, "k"))
    assert Place(8, 1) == places.find(("target", 0, "card", "enabled"))
    assert Place(10, 3) == places.find(("target", 1))
    assert Place(13, 3) == places.find(("target", 1, "card", "enabled"))


def test_what_stands_nowhere_is_near_what_stands_around_it() -> None:
    """A missing key is found at its table, and a missing table at the start."""
    places = find_places(TARGETS)

    assert Place(10, 3) == places.find(("target", 1, "source"))
    assert Place(1, 1) == places.find(("service", "state_dir"))
    assert Place(1, 1) == find_places("").find(())


KEYS = st.one_of(st.sampled_from(["a", "b", "target", "x-1"]), st.text("ab.\"'#[]=\\ é", max_size=4))
SCALARS = st.one_of(st.integers(-9, 9), st.booleans(), st.text("a\"'#[]{},=\\\n é", max_size=5))
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=3), max_leaves=6
)


def spell_key(key: str) -> str:
    return f"'{key}'" if key and "'" not in key else json.dumps(key, ensure_ascii=False)


def spell(value: Any) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{spell_key(key)} = {spell(child)}" for key, child in value.items()) + " }"
    if isinstance(value, list):
        return "[\n" + "".join(f"  {spell(child)} , # ]\n" for child in value) + "]"

    return json.dumps(value, ensure_ascii=False)


@st.composite
def documents(draw: st.DrawFn) -> str:
    lines = [f"{spell_key(key)} = {spell(value)}" for key, value in draw(st.dictionaries(KEYS, VALUES, max_size=3)).items()]
    for index in range(draw(st.integers(0, 3))):
        header = draw(st.sampled_from([f"[table{index}]", f"[ table{index} . 'sub' ] # x", "[[list]]", "  [[ 'list' ]]"]))
        lines += [
            header,
            *(
                f"\t{spell_key(key)}={spell(value)}"
                for key, value in draw(st.dictionaries(KEYS, VALUES, max_size=3)).items()
            ),
        ]

    return "\n".join(lines)


def walk(value: Any, loc: Loc = ()) -> list[tuple[Loc, Any]]:
    children = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [(loc, value), *(found for key, child in children for found in walk(child, (*loc, key)))]


@given(documents())
def test_every_key_of_a_document_is_found_where_it_stands(text: str) -> None:
    """At the place of a key stands the key, its table's header, or, for an item, its value."""
    lines = text.split("\n")
    places = find_places(text)
    for loc, value in walk(tomllib.loads(text))[1:]:
        line, column = places.find(loc)
        found = lines[line - 1][column - 1 :]
        spelt = spell(value).split("\n")[0] if isinstance(loc[-1], int) else spell_key(loc[-1])

        assert found.startswith((spelt, str(loc[-1]), "[")), (loc, found)
        assert loc in places._offsets
