"""The text of a card: its examples, its sections, its pictures, and the command that prints it."""

import ast
import itertools
import json
import os
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
import runs
from click.testing import CliRunner
from huggingface_hub import ModelCard

from hubsync.card.curves import DARK, LIGHT, _draw, draw_curves
from hubsync.card.dataset import read_rows, split_of
from hubsync.card.frontmatter import read_front_matter
from hubsync.card.history import read_metrics_csv, read_trainer_log
from hubsync.card.rules import check_metadata
from hubsync.card.stock import is_stock
from hubsync.card.tables import escape
from hubsync.cli import cli
from hubsync.config.model import Card, Config, Endpoint, Mirror, Service, Target
from hubsync.errors import HubsyncError
from hubsync.localhub.rules import card_errors
from hubsync.preview import preview_card

HUB = "https://huggingface.co"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    directory = tmp_path / "source"
    directory.mkdir()
    return directory


def card_of(source: Path, card: Card | None = None, mirror: dict[str, Any] | None = None, **settings: Any) -> str:
    declared = Mirror(**{"name": "m", "endpoint": "hub", "repo_type": "model", "repo_id": "acme/x", **(mirror or {})})
    options = {"units": ("checkpoint-*",), "card": card or Card(enabled=True), **settings}
    target = Target(name="run", source=source, mirrors=(declared,), **options)
    config = Config(
        path=source,
        files=(),
        endpoints={"hub": Endpoint(name="hub", url=HUB)},
        targets=(target,),
        service=Service(state_dir=source),
    )
    return preview_card(config, target, declared).files.get("README.md", "")


def examples(card: str) -> list[str]:
    return [piece.partition("```")[0] for piece in card.split("```python\n")[1:]]


@pytest.mark.parametrize("write", [runs.write_trainer_run, runs.write_peft_run, runs.write_lightning_run])
@pytest.mark.parametrize("publish", ["tree", "revisions"])
def test_what_every_card_keeps_to(source: Path, write: Any, publish: str) -> None:
    """The Hub's rules and huggingface_hub take it, its examples are Python, and no section is empty."""
    write(source)
    card = card_of(source, Card(license="mit", datasets=("acme/corpus",)), publish=publish)
    lines = [line for line in card.splitlines() if line]

    assert [] == card_errors(card) == check_metadata(read_front_matter(card).values)
    assert "mit" == ModelCard(card).data.license
    assert examples(card)
    assert all(ast.parse(example) for example in examples(card))
    assert not [a for a, b in itertools.pairwise(lines) if a.startswith("## ") and b.startswith(("## ", "<!--"))]


def test_the_same_files_give_the_same_card(source: Path) -> None:
    """Nothing in a card depends on the time or on an order."""
    runs.write_trainer_run(source)

    assert card_of(source) == card_of(source)


def test_a_revision_stands_in_the_examples(source: Path) -> None:
    """Published as revisions, the model is loaded by one; published as a tree, from its directory."""
    runs.write_trainer_run(source)

    assert 'revision="checkpoint-40")' in card_of(source, publish="revisions")
    assert 'from_pretrained("acme/x", subfolder="checkpoint-40")' in card_of(source)


@pytest.mark.parametrize(("context", "tokens"), [(2048, ["64", "32"]), (32, ["8", "8"]), (8, ["1", "1"])])
def test_an_example_asks_for_no_more_than_the_model_has_room_for(source: Path, context: int, tokens: list[str]) -> None:
    """A tiny model of a short context runs its examples as well."""
    runs.write_trainer_run(source, config={**runs.LLAMA_CONFIG, "max_position_embeddings": context})

    assert tokens == re.findall(r"max_new_tokens=(\d+)", "".join(examples(card_of(source))))


def test_an_adapter_of_a_local_path_names_no_base(source: Path) -> None:
    """A path of this machine reaches neither metadata nor text, nor an example that could not run."""
    runs.write_peft_run(source, base="/data/models/llama")
    card = card_of(source)

    assert "/data/models" not in card
    assert "base_model" not in read_front_matter(card).values
    assert not examples(card)


def test_the_operators_words(source: Path) -> None:
    """Free text stands first under its heading; a heading of its own comes last."""
    runs.write_trainer_run(source)
    words = {"intended use": "Only *here*.", "Carbon": "None.", "Training data": "Collected by us."}
    card = card_of(source, Card(sections=words, model_name="Llama X", datasets=("acme/corpus",)))

    assert "# Llama X\n" in card
    assert "## Intended uses & limitations\n\nOnly *here*.\n" in card
    assert "## Training data\n\nCollected by us.\n\n- [acme/corpus]" in card
    assert card.index("## Published checkpoints") < card.index("## Carbon\n\nNone.")


def test_a_template(source: Path, tmp_path: Path) -> None:
    """A template of the operator's own takes sections by name."""
    runs.write_trainer_run(source)
    template = tmp_path / "card.md"
    template.write_text("# $title\n\n$how_to_use\n\nCosts $$3. $unknown\n")
    card = card_of(source, Card(template=template))

    assert "# x\n\n```python" in card
    assert "Costs $3. $unknown" in card
    assert "## Training procedure" not in card


def test_a_template_that_is_no_file_is_refused_at_once(source: Path, tmp_path: Path) -> None:
    """Nobody writes to the FIFO: to open it would wait for good."""
    runs.write_trainer_run(source)
    os.mkfifo(tmp_path / "card.md")

    with pytest.raises(HubsyncError, match=r"card's template .*/card.md: it is a FIFO, not a regular file") as caught:
        card_of(source, Card(template=tmp_path / "card.md"))

    assert "card.template" in caught.value.hint


def test_nothing_known_no_card(source: Path) -> None:
    """Files that say nothing make no card."""
    (source / "notes.txt").write_text("x")

    assert not card_of(source)


def test_facts_cannot_break_the_page(source: Path) -> None:
    """Names with marks of Markdown, HTML or tables stand as they are."""
    config = {**runs.LLAMA_CONFIG, "architectures": ["BertForSequenceClassification"], "model_type": "bert"}
    runs.write_trainer_run(source, config={**config, "id2label": {"0": "a|b", "1": "<b>*x*</b> `", "2": "c_d"}})
    card = card_of(source)

    assert "| 0 | a\\|b |" in card
    assert "<b>" not in card.replace("\\<b\\>", "")
    assert "c_d" == escape("c_d")


def test_curves_are_the_same_bytes_and_text() -> None:
    """The same history draws the same SVG, which a Hub takes as text; light and dark differ in colours alone."""
    history = read_trainer_log({"log_history": runs.log_history(60)})
    light, dark = draw_curves(history, LIGHT), draw_curves(history, DARK)
    _draw.cache_clear()

    assert light is not None
    assert dark is not None
    assert light == draw_curves(history, LIGHT) != dark
    assert "svg" in ET.fromstring(light).tag
    assert light.count("\n") == dark.count("\n")
    assert all(title in light for title in ("Loss", "eval_accuracy", "Learning rate"))


def test_names_in_curves_are_no_mathematics() -> None:
    """A metric called $x is drawn, not parsed."""
    history = read_metrics_csv("step,val_$x,val_$\\frac\n1,1,1\n2,2,2\n")

    assert draw_curves(history, LIGHT) is not None


def test_without_the_extra_there_is_a_table(source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is drawn when matplotlib is not there; the numbers stand in a table."""
    # The extra is installed where tests run; this is what the program sees where it is not.
    monkeypatch.setattr("hubsync.card.curves.importlib.util.find_spec", lambda _: None)
    runs.write_trainer_run(source)
    card = card_of(source)

    assert "<picture>" not in card
    assert "| 40 | 2 | 0.625 | 3e-05 | 0.5 | 0.66 |" in card


@pytest.mark.parametrize(
    ("path", "split"),
    [
        ("train.csv", "train"),
        ("data/train-00000-of-00003.parquet", "train"),
        ("test/part.jsonl", "test"),
        ("my-dev_set.csv", "validation"),
        ("data/extra-00000-of-00001.parquet", "extra"),
        ("contest.csv", ""),
        ("a/trainer/x.csv", ""),
    ],
)
def test_splits_by_the_hubs_naming(path: str, split: str) -> None:
    """Words in file names, then in directories, then the shards of a data directory."""
    assert split == split_of(path)


def test_rows_of_a_dataset() -> None:
    """Files are counted by split and format; what is no data is not."""
    sizes = {"train-1.csv.gz": 3, "train-2.csv": 4, "test.csv": 5, "README.md": 9, ".gitattributes": 1, "x.py": 1}

    assert [("train", "CSV", 2, 7), ("test", "CSV", 1, 5)] == [
        (row.split, row.form, row.files, row.bytes) for row in read_rows(sizes)
    ]


def test_one_line_of_a_persons_makes_a_card_theirs() -> None:
    """Only a card that is the template to the last line gives way."""
    stock = "# Model Card for x\n\n## Uses\n\n[More Information Needed]\n"

    assert is_stock(stock)
    assert not is_stock(stock + "Mine.\n")
    assert not is_stock("# Mine\n")


# --- the command


def run_card(tmp_path: Path, *args: str, mirrors: str = '["acme/x"]') -> Any:
    (tmp_path / "hubsync.toml").write_text(
        f'[service]\nstate_dir = "{tmp_path}/state"\n[[target]]\nname = "run"\nsource = "{tmp_path}/source"\n'
        f'units = ["checkpoint-*"]\nmirrors = {mirrors}\n'
    )
    return CliRunner().invoke(cli, ["-c", str(tmp_path / "hubsync.toml"), "card", *args], obj={"HOME": str(tmp_path)})


def test_the_command_prints_the_card(source: Path, tmp_path: Path) -> None:
    """What is printed is what a mirror without a card would get; nothing is written anywhere."""
    runs.write_trainer_run(source)
    result = run_card(tmp_path, "run", "--preview")

    assert 0 == result.exit_code, result.output
    assert card_of(source) == result.output
    assert not (tmp_path / "state").exists()


def test_the_command_prints_one_document(source: Path, tmp_path: Path) -> None:
    """With --json, the card and its pictures are fields, for the mirror that was asked for."""
    runs.write_trainer_run(source)
    result = run_card(tmp_path, "run", "--json", "--mirror", "acme/y", mirrors='["acme/x", "acme/y"]')
    document = json.loads(result.output)

    assert "acme/y" == document["mirror"]
    assert '"acme/y"' in document["files"]["README.md"]
    assert ".hubsync/curves.svg" in document["files"]


@pytest.mark.parametrize(
    ("args", "mirrors", "said"),
    [
        (("run", "--mirror", "acme/z"), '["acme/x"]', "has no mirror 'acme/z'"),
        (("other",), '["acme/x"]', "there is no target 'other'"),
        (("run",), '["spaces/acme/x"]', "is a space"),
    ],
)
def test_what_cannot_be_printed_is_a_wrong_command(
    source: Path, tmp_path: Path, args: tuple[str, ...], mirrors: str, said: str
) -> None:
    """A mirror or target that is not declared, and a space, are told."""
    assert source.exists()
    result = run_card(tmp_path, *args, mirrors=mirrors)

    assert 2 == result.exit_code
    assert said in result.output


def test_a_card_that_is_left_alone_is_told(source: Path, tmp_path: Path) -> None:
    """A README.md of the source that cannot be read is an answer of "no", with the reason."""
    runs.write_trainer_run(source)
    (source / "README.md").write_text("---\na: [\n---\n")
    result = run_card(tmp_path, "run")

    assert 1 == result.exit_code
    assert "is left alone" in result.output
