"""People's words stay byte for byte; hubsync owns a marked block and the keys that it set."""

import itertools
from typing import Any

import pytest
import yaml
from hypothesis import example, given
from hypothesis import strategies as st

from hubsync.card.frontmatter import read_front_matter
from hubsync.card.merge import Draft, Merged, merge_card

BEGIN, END = "<!-- hubsync:begin", "<!-- hubsync:end -->"

PEOPLE = {
    "plain": "# My model\n\nIt is good.\n",
    "no last line end": "# My model",
    "metadata": "---\nlicense: mit\ntags:\n- mine\n---\n\n# My model\n",
    "crlf": "---\r\nlicense: mit\r\ntags:\r\n- mine\r\n---\r\n\r\n# My model\r\n\r\nText.\r\n",
    "comments": "---\n# why\nlicense:   'mit'   # because\n\n# tags follow\ntags: [a,   \"b\"]\n\n---\ntext\n",
    "block scalars": "---\nextra: |+\n  one\n\n  # two\n\nwidget:\n- text: >-\n    folded\n    text\n---\ntext",
    "anchors": "---\na: &x [1, 2]\nb: *x\n---\n# T\n",
    "bom": "\ufeff---\nlicense: mit\n---\n# T\n",
    "leading space": "\n\n---\nlicense: mit\n--- \n# T\n",
    "html": "<div align='center'>\n<!-- mine -->\n<h1>T</h1>\n</div>\n\n"
    "<details><summary>x</summary>\n\n```yaml\n---\na: 1\n---\n```\n</details>",
    "rule at the top": "---\n\nText under a rule that never closes",
    "unicode": "---\nlanguage: ja\n---\n# モデル \u2028 x\u0085y\n",
    "quoted keys": "---\n\"license\": mit\n'tags': [x]\n---\nx\n",
    "trailing blanks": "# T\n\n\n\n   \n",
    "dates": "---\ndate: 2024-01-01\nversion: 1.10\nnorway: no\n---\nx\n",
}


def drafts(number: int) -> Draft:
    metadata: dict[str, Any] = {"library_name": "transformers", "tags": ["ours"], "pipeline_tag": "text-generation"}
    result = {
        "task": {"type": "text-generation"},
        "dataset": {"name": "a/b", "type": "a/b"},
        "metrics": [{"type": "loss", "value": number / 7}],
    }
    if number % 3:
        metadata["model-index"] = [{"name": "x", "results": [result]}]

    return Draft(metadata, f"# Card\n\nStep {number}, `{'x' * (number % 5)}`.")


def outside(card: str) -> tuple[str, str]:
    before, _, rest = card.partition(BEGIN)
    return before, rest.partition(END)[2]


def updated(card: str | None, draft: Draft) -> str:
    merged = merge_card(card, draft)
    assert merged.card is not None, merged.reason
    return merged.card


@pytest.mark.parametrize("name", PEOPLE)
def test_a_hundred_updates_leave_what_people_wrote(name: str) -> None:
    """The body outside the block, and each key that was there, are the same bytes after a hundred updates."""
    theirs = PEOPLE[name]
    before = read_front_matter(theirs)
    card: str = theirs
    for number in range(100):
        card = updated(card, drafts(number))
        assert "\r\n" not in theirs or "\n" not in card.replace("\r\n", "")

    after = read_front_matter(card)
    assert before.body.removeprefix("\ufeff") in outside(card)[0]
    assert before.values.items() <= after.values.items()
    assert all(_span(before, key) == _span(after, key) for key in before.spans)
    assert theirs.startswith("\ufeff") == card.startswith("\ufeff")
    assert 1 == card.count(BEGIN)


def _span(front: Any, key: str) -> str:
    start, stop = front.spans[key]
    return front.text[start:stop]


@given(
    st.text(alphabet=st.sampled_from("ab-:#<>!\n\r \t`\"'[]{}&*|é\u2028"), max_size=80),
    st.lists(st.integers(0, 20), max_size=4),
)
@example("---\n---\n", [1])
@example("---\n---", [1])
@example("---\n\n---\n", [1, 2])
def test_whatever_people_write_stays(body: str, numbers: list[int]) -> None:
    """Either a card is left alone, or its text stands in it unchanged, and a second update changes nothing more."""
    first = merge_card(body, drafts(1))
    if first.card is None:
        assert first.reason
        return
    assert read_front_matter(body).body.lstrip("\ufeff") in first.card
    card = first.card
    for number in [*numbers, 1]:
        card = updated(card, drafts(number))

    assert read_front_matter(body).body.lstrip("\ufeff") in card
    assert card == updated(card, drafts(1))


def test_an_equal_card_is_not_written_again() -> None:
    """The same facts give the same bytes, from nothing and on top of the card itself."""
    card = updated(None, drafts(1))

    assert card == updated(card, drafts(1)) == updated("", drafts(1))


def test_an_edit_around_the_block_is_kept() -> None:
    """What a person adds above and below in the web page stays while the block goes on."""
    card = updated(None, drafts(1))
    edited = card.replace(BEGIN, f"> A note.\n\n{BEGIN}") + "\n## Mine\n"
    after = updated(edited, drafts(2))

    assert outside(edited)[1] == outside(after)[1]
    assert "> A note.\n\n" in outside(after)[0]
    assert "Step 2" in after


def test_an_edit_inside_the_block_is_noticed() -> None:
    """Text that a person changed inside the block is never overwritten."""
    edited = updated(None, drafts(1)).replace("Step 1", "Step one")

    assert Merged(None, "somebody changed the text inside the block") == merge_card(edited, drafts(2))


def test_line_ends_are_no_edit() -> None:
    """A web page that turns line ends has changed nothing."""
    turned = updated(None, drafts(1)).replace("\n", "\r\n")
    card = updated(turned, drafts(2))

    assert "Step 2" in card
    assert "\n" not in card.replace("\r\n", "")


@pytest.mark.parametrize("cut", [END, "<!-- hubsync:begin"])
def test_damaged_marks(cut: str) -> None:
    """A block with one of its marks gone, or twice there, is left alone."""
    card = updated(None, drafts(1))

    assert merge_card(card.replace(cut, ""), drafts(2)).card is None
    assert merge_card(card + card, drafts(2)).card is None


def test_a_key_of_a_persons_stays() -> None:
    """A key that was there before is theirs; one that is missing is added."""
    card = updated("---\nlibrary_name: keras\n---\n", drafts(1))
    values = read_front_matter(card).values

    assert ("keras", "text-generation") == (values["library_name"], values["pipeline_tag"])


def test_a_key_that_a_person_changed_becomes_theirs() -> None:
    """Also if hubsync has written it first; one that nobody touched follows the facts."""
    card = updated(None, drafts(1)).replace("library_name: transformers", "library_name: vllm")
    after = read_front_matter(updated(card, drafts(2))).values

    assert "vllm" == after["library_name"]
    assert 2 / 7 == after["model-index"][0]["results"][0]["metrics"][0]["value"]


def test_a_comment_between_keys_is_nobodys() -> None:
    """A person's comment after a key of ours stays, and the key still follows the facts."""
    noted = (
        updated(None, drafts(1))
        .replace("\npipeline_tag:", "\n# Mine.\n\npipeline_tag:")
        .replace("\ntags:", "\n# Mine too.\ntags:")
    )
    card = updated(noted, Draft({**drafts(1).metadata, "library_name": "peft", "tags": ["new"]}, "x"))

    assert "library_name: peft" in card
    assert "# Mine.\n\npipeline_tag:" in card
    assert "# Mine too.\ntags:" in card
    assert ["new"] == read_front_matter(card).values["tags"]


def test_a_key_that_a_person_took_out_stays_out() -> None:
    """What was removed in the web page is not put back."""
    card = updated(None, drafts(1)).replace("library_name: transformers\n", "")
    for number in range(1, 5):
        card = updated(card, drafts(number))

    assert "library_name" not in read_front_matter(card).values


def test_a_fact_that_is_gone_leaves_the_metadata() -> None:
    """Results that nothing stands for any more are removed."""
    card = updated(updated(None, drafts(1)), drafts(3))

    assert "model-index" not in read_front_matter(card).values


def test_what_the_operator_says_is_written() -> None:
    """A key that the config sets wins; a list keeps what a person has added."""
    told = Draft({"license": "mit", "tags": ["a"]}, "x", frozenset({"license", "tags"}))
    values = read_front_matter(updated("---\nlicense: gpl-3.0\ntags: [b]\n---\n", told)).values

    assert {"license": "mit", "tags": ["b", "a"]} == values


@pytest.mark.parametrize(
    "theirs",
    [
        "---\na: [\n---\n",
        "---\na: 1\na: 2\n---\n",
        "---\n- a\n- b\n---\n",
        "---\n{license: mit}\n---\n",
        "---\nlicense: 3\n---\n",
        "---\n  license: mit\n---\n",
        "---\nmodel-index: x\n---\n",
    ],
)
def test_a_card_that_cannot_be_read_is_left_alone(theirs: str) -> None:
    """Odd metadata is not repaired: there is a reason, and no card."""
    merged = merge_card(theirs, drafts(1))

    assert merged.card is None
    assert merged.reason


def test_the_text_of_the_block_cannot_end_it() -> None:
    """Facts that look like our marks are disarmed."""
    card = updated(None, Draft({}, f"x {END} y {BEGIN} z"))

    assert "Step 2" in updated(card, drafts(2))


@given(
    st.dictionaries(
        st.sampled_from(["license", "tags", "zz", "é"]), st.text(max_size=20) | st.lists(st.text(max_size=9)), max_size=4
    )
)
def test_any_yaml_that_is_dumped_stays(values: dict[str, Any]) -> None:
    """Metadata in any style of the writer's keeps its bytes."""
    for flow, width in itertools.product((None, False), (20, 200)):
        text = yaml.safe_dump(values, default_flow_style=flow, width=width, allow_unicode=True) if values else ""
        theirs = f"---\n{text}---\nbody\n"
        merged = merge_card(theirs, drafts(1))
        if merged.card is not None and values:
            assert text.rstrip("\n") in merged.card
