"""The card on a mirror: in the unit's commit, right for that mirror, and never over what people wrote."""

from collections.abc import Callable
from typing import Any

import pytest
import runs
from huggingface_hub import EvalResult, ModelCard
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.rig import REPO, Rig

from hubsync.card.merge import without_block
from hubsync.config.model import Card

MakeRig = Callable[..., Rig]
SAID = Card(enabled=True, license="apache-2.0", datasets=("acme/corpus",))


@pytest.fixture
def rig(server: PlainServer, make_rig: Any) -> Rig:
    """Give a target with units and a card."""
    made: Rig = make_rig(server, units=("checkpoint-*",), card=SAID)
    return made


def card_on(server: PlainServer, repo: str = REPO, revision: str = "main") -> str:
    return server.git(repo, "show", f"{revision}:README.md")


def write_unit(rig: Rig, step: int) -> None:
    unit = rig.source / f"checkpoint-{step}"
    runs.write_json(unit / "config.json", runs.LLAMA_CONFIG)
    runs.write_weights(unit / "model.safetensors")
    runs.write_json(unit / "trainer_state.json", runs.trainer_state(step))


def test_the_card_is_part_of_the_units_commit(rig: Rig, server: PlainServer) -> None:
    """One commit for one unit, card and curves in it; huggingface_hub reads its results back equal."""
    write_unit(rig, 20)
    rig.update()

    assert 1 == int(server.git(REPO, "rev-list", "--count", "main"))
    card = ModelCard(card_on(server))
    results = {(r.metric_type, r.metric_value, r.dataset_type) for r in card.data.eval_results}
    assert {("loss", 1.0, "acme/corpus"), ("accuracy", 0.58, "acme/corpus")} == results
    assert isinstance(card.data.eval_results[0], EvalResult)
    assert {".hubsync/curves.svg", ".hubsync/curves-dark.svg"} <= server.read_all(REPO).keys()


def test_each_unit_brings_its_own_facts(rig: Rig, server: PlainServer) -> None:
    """The second unit's card tells of both, and its commit holds what changed; a third publication makes none."""
    for step in (20, 40):
        write_unit(rig, step)
        rig.update()
    before = server.history(REPO)

    assert "| 40 | 0.66 |" in card_on(server)
    assert "| 20 | 0.58 |" in card_on(server)
    assert 2 == int(server.git(REPO, "rev-list", "--count", "main"))
    assert rig.update() is None
    assert before == server.history(REPO)


def test_facts_that_do_not_change_leave_the_card(rig: Rig, server: PlainServer) -> None:
    """A file that says nothing of the model brings no other card."""
    write_unit(rig, 20)
    rig.update()
    before = server.git(REPO, "rev-parse", "main:README.md")
    rig.write("notes.txt", b"text")
    rig.update()

    assert before == server.git(REPO, "rev-parse", "main:README.md")
    assert "notes.txt" in server.git(REPO, "show", "--format=", "--name-only", "main")


def test_a_released_object_keeps_its_facts(rig: Rig, server: PlainServer) -> None:
    """The parameters stay in the card when the file and its pin are gone."""
    write_unit(rig, 20)
    rig.update()
    rig.work.release()
    (rig.source / "checkpoint-20" / "model.safetensors").unlink()
    rig.write("notes.txt", b"text")
    rig.update()

    assert "24,576" in card_on(server)


def test_each_mirror_has_its_own_names(make_rig: MakeRig, server: PlainServer, tmp_path: Any) -> None:
    """The examples name the repository that they stand in."""
    with PlainServer(tmp_path / "other") as other:
        other.create(REPO)
        rig = make_rig(server, other, units=("checkpoint-*",), card=SAID)
        write_unit(rig, 20)
        rig.commit()
        for number in (0, 1):
            rig.publish(number)

        assert server.url in card_on(server)
        assert server.url not in card_on(other)
        assert other.url in card_on(other)
        assert f'from_pretrained("{REPO}", subfolder="checkpoint-20")' in card_on(server)


def test_a_mirror_of_weights_alone_tells_of_their_training(make_rig: MakeRig, server: PlainServer) -> None:
    """The Trainer's state is not sent there, and read all the same; the size is that of what is there."""
    rig = make_rig(server, mirror={"include": ("weights",)}, units=("checkpoint-*",), card=SAID)
    write_unit(rig, 20)
    rig.write("checkpoint-20/optimizer.pt", b"x" * 5_000_000)
    rig.update()

    card = ModelCard(card_on(server))
    assert {"README.md", "checkpoint-20/config.json", "checkpoint-20/model.safetensors"} <= server.read_all(REPO).keys()
    assert "checkpoint-20/trainer_state.json" not in server.read_all(REPO)
    assert {"loss", "accuracy"} == {result.metric_type for result in card.data.eval_results}
    assert "5." not in card.text.split("| 20 | 0.58 |")[1].splitlines()[0]


def test_each_revision_has_its_card(make_rig: MakeRig, server: PlainServer) -> None:
    """A unit's own branch says how to load that revision; the main branch lists all."""
    rig = make_rig(server, units=("checkpoint-*",), card=SAID, publish="revisions")
    for step in (20, 40):
        write_unit(rig, step)
        rig.update()

    assert f'from_pretrained("{REPO}", revision="checkpoint-20")' in card_on(server, revision="checkpoint-20")
    assert "checkpoint-40" not in card_on(server, revision="checkpoint-20")
    assert "| 40 | 0.66 |" in card_on(server)
    assert "| 20 | 0.58 |" in card_on(server)


def test_a_card_made_in_the_web_page_stays(rig: Rig, server: PlainServer) -> None:
    """A repository with a person's card keeps every word of it, and each later edit."""
    theirs = "---\r\nlicense: mit # ours\r\n---\r\n<h1>Mine</h1>\r\n"
    server.commit(REPO, {"README.md": theirs.encode()})
    write_unit(rig, 20)
    rig.update()
    edited = server.read(REPO, "README.md").replace(b"<h1>Mine</h1>", b"<h1>Mine!</h1>")
    server.commit(REPO, {"README.md": edited})
    write_unit(rig, 40)
    rig.update()
    card = server.read(REPO, "README.md")

    assert b"<h1>Mine!</h1>\r\n" in card
    assert b"| 40 | 0.66 |" in card
    assert "apache-2.0" == ModelCard(card.decode()).data.license, "the config says so"


def test_an_edit_inside_the_block_is_told_and_kept(rig: Rig, server: PlainServer) -> None:
    """Nothing is overwritten; an event says why, once."""
    write_unit(rig, 20)
    rig.update()
    server.commit(REPO, {"README.md": card_on(server).replace("LlamaForCausalLM", "A llama").encode()})
    with capture_logs() as logs:
        for step in (40, 60):
            write_unit(rig, step)
            rig.update()

    assert "A llama" in card_on(server)
    assert ["somebody changed the text inside the block"] == [log["reason"] for log in logs if log["event"] == "card.held"]
    assert "checkpoint-60/config.json" in server.read_all(REPO)


def test_a_block_that_was_taken_out_stays_out(rig: Rig, server: PlainServer) -> None:
    """A person who removes the block, or the card, is heard, also after a restart."""
    write_unit(rig, 20)
    rig.update()
    server.commit(REPO, {"README.md": b"Mine alone.\n"})
    for step in (40, 60):
        rig.restart()
        write_unit(rig, step)
        rig.update()

    assert "Mine alone." == card_on(server)


def test_a_card_in_the_source_is_published_with_the_block(rig: Rig, server: PlainServer) -> None:
    """The source's own card is the base; its changes arrive although the block was added to it."""
    rig.write("README.md", b"# Source one\n")
    write_unit(rig, 20)
    rig.update()
    first = card_on(server)
    rig.write("README.md", b"# Source two\n")
    with capture_logs() as logs:
        write_unit(rig, 40)
        rig.update()

    assert "# Source one" in first
    assert "Step" in first
    assert "# Source two" in card_on(server)
    assert "# Source one" not in card_on(server)
    assert not [log for log in logs if log["event"] in {"mirror.foreign_edit", "card.held"}]


def test_an_edited_card_of_the_source_is_theirs(rig: Rig, server: PlainServer) -> None:
    """Once a person has changed it on the mirror, the source's version does not replace it."""
    rig.write("README.md", b"# Source one\n")
    write_unit(rig, 20)
    rig.update()
    server.commit(REPO, {"README.md": server.read(REPO, "README.md").replace(b"# Source one", b"# Edited")})
    rig.write("README.md", b"# Source two\n")
    write_unit(rig, 40)
    rig.update()

    assert "# Edited" in card_on(server)
    assert "# Source two" not in card_on(server)


def test_a_template_of_peft_is_not_a_persons(rig: Rig, server: PlainServer) -> None:
    """A card that a library has filled with "More Information Needed" gives way; one line of a person's keeps it."""
    rig.write("README.md", STOCK.encode())
    write_unit(rig, 20)
    rig.update()
    replaced = card_on(server)
    rig.write("README.md", STOCK.replace("## Uses", "## Uses\n\nFor llamas only.").encode())
    write_unit(rig, 40)
    rig.update()

    assert "More Information Needed" not in replaced
    assert "For llamas only." in card_on(server)


STOCK = """---
library_name: peft
---

# Model Card for Model ID

<!-- Provide a quick summary of what the model is/does. -->



## Model Details

### Model Description

<!-- Provide a longer summary of what this model is. -->



- **Developed by:** [More Information Needed]
- **License:** [More Information Needed]

## Uses

[More Information Needed]
### Framework versions

- PEFT 0.17.1
"""


def test_a_dataset_gets_a_card_of_its_own(make_rig: MakeRig, server: PlainServer) -> None:
    """A dataset's card lists splits; nothing of a model is in it."""
    rig = make_rig(server, mirror={"repo_type": "dataset"}, card=Card(enabled=True, license="mit"))
    rig.write("data/train-00000-of-00001.csv", b"a,b\n1,2\n")
    rig.write("data/test.jsonl", b"{}\n")
    server.create(f"datasets/{REPO}")
    rig.update()
    text = card_on(server, f"datasets/{REPO}")

    assert "| `train` | CSV | 1 |" in text
    assert "| `test` | JSON Lines | 1 |" in text
    assert f'load_dataset("{REPO}", split="train")' in text


def test_below_a_directory_of_the_repository(make_rig: MakeRig, server: PlainServer) -> None:
    """With path_in_repo, card and examples stand there."""
    rig = make_rig(server, mirror={"path_in_repo": "runs/one"}, units=("checkpoint-*",), card=SAID)
    write_unit(rig, 20)
    rig.update()
    text = server.git(REPO, "show", "main:runs/one/README.md")

    assert 'subfolder="runs/one/checkpoint-20"' in text
    assert "resolve/main/runs/one/.hubsync/curves.svg" in text


def test_a_card_that_the_hub_refuses_holds_back_nothing(rig: Rig, server: PlainServer) -> None:
    """What was trained arrives, without a card, and an event says so."""
    bare = server.root / f"{REPO}.git"
    hook = bare / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(
        "#!/bin/sh\nread old new ref\nif git ls-tree --name-only $new | grep -q README.md; then\n"
        "echo 'Sorry, your push was rejected during YAML metadata verification:'; exit 1; fi\n"
    )
    hook.chmod(0o755)
    write_unit(rig, 20)
    with capture_logs() as logs:
        rig.update()

    assert "checkpoint-20/config.json" in server.read_all(REPO)
    assert "README.md" not in server.read_all(REPO)
    assert 1 == sum(log["event"] == "card.held" for log in logs)


def test_the_page_has_no_marks(rig: Rig, server: PlainServer) -> None:
    """What a person reads in a terminal has no comments of ours."""
    write_unit(rig, 20)
    rig.update()

    assert "hubsync:" not in without_block(card_on(server))
