"""Receipts follow what a mirror shows, cost no upload, and stand in nobody's way."""

from collections.abc import Callable
from pathlib import Path

import pytest
from proof.conftest import change, objects_of, reasons, write_unit
from support.plain_server import PlainServer
from support.rig import Rig, safetensors

from hubsync.localhub import LocalHub

MakeRig = Callable[..., Rig]
MODEL = "checkpoint-1/model.safetensors"


def keep(rig: Rig, number: int = 0) -> float | None:
    """Bring the receipts up to date."""
    return rig.work.keepers[number].keep()


def receipts(rig: Rig, mirror: str = "m0") -> dict[str, str]:
    """Return the receipts: path → commit."""
    return {path: receipt.commit for path, receipt in rig.store.ledger.receipts(mirror).items()}


@pytest.fixture
def kept(hub: LocalHub, make_rig: MakeRig) -> Rig:
    """Give a target whose one unit is on its mirror, with receipts."""
    rig = make_rig(hub, units=("checkpoint-*",), complete_when=("config.json",))
    write_unit(rig)
    rig.update()
    assert keep(rig) is None
    return rig


def test_what_is_published_gets_receipts(kept: Rig, hub: LocalHub) -> None:
    """The mirror's own answer is kept, with its commit; the unit counts as proved."""
    hub.stop()

    assert {} == reasons(kept, "checkpoint-1", cached=True)
    assert {kept.publisher().head()} == set(receipts(kept).values())
    assert ["checkpoint-1"] == list(kept.work.keepers[0].proven)


def test_a_new_unit_is_asked_for_alone(kept: Rig, server: PlainServer) -> None:
    """What is proved and still shown is moved to the new head without asking for its object again."""
    del server
    before = kept.store.ledger.receipts("m0")[MODEL]
    write_unit(kept, "checkpoint-2")
    kept.update()
    assert keep(kept) is None

    assert {kept.publisher().head()} == set(receipts(kept).values())
    assert {"checkpoint-1", "checkpoint-2"} == kept.work.keepers[0].proven.keys()
    assert before.oid == kept.store.ledger.receipts("m0")[MODEL].oid


def test_an_old_proof_is_none_for_what_is_named_anew(kept: Rig, hub: LocalHub) -> None:
    """The object was lost after it was proved: the new unit is not proved by that, nor the old one any more."""
    write_unit(kept, "checkpoint-2")
    kept.update()
    for path in objects_of(hub):
        path.unlink()

    keep(kept)

    assert {MODEL, "checkpoint-2/model.safetensors"} == reasons(kept, "checkpoint-1", "checkpoint-2", cached=True).keys()
    assert {} == kept.work.keepers[0].proven


def test_a_lost_ledger_gets_its_receipts_anew(rig: Rig, server: PlainServer) -> None:
    """From what the mirror says, without an upload."""
    write_unit(rig)
    rig.update()
    keep(rig)
    before = receipts(rig)
    rig.work.close()
    for file in rig.store.directory.glob("ledger.sqlite*"):
        file.unlink()
    rig.restart()
    rig.update()
    server.requests.clear()

    assert {} == receipts(rig)
    assert keep(rig) is None
    assert before == receipts(rig)
    assert {"GET", "POST"} == {request.method for request in server.requests}
    assert not any(request.is_push for request in server.requests)


def test_a_receipt_goes_when_the_head_shows_it_no_more(kept: Rig, hub: LocalHub) -> None:
    """Others removed one file and changed another; a restart does not bring the receipts back."""
    change(hub, {MODEL: None, "checkpoint-1/config.json": b"{2}"})

    assert keep(kept) is None
    assert {"checkpoint-1/empty", "checkpoint-1/sub/notes.txt"} == receipts(kept).keys()
    assert {} == kept.work.keepers[0].proven


def test_a_mirror_that_is_down_is_asked_later(kept: Rig, hub: LocalHub) -> None:
    """Each time a little later; what was proved stays proved as of then."""
    before = receipts(kept)
    hub.stop()

    first, second = keep(kept), keep(kept)

    assert first is not None
    assert second is not None
    assert 0 < first < second
    assert before == receipts(kept)


def test_a_snapshot_that_is_not_there_yet_gets_no_receipt(kept: Rig) -> None:
    """A change that is captured but not published leaves the receipt for the former content, which is another's."""
    kept.write(MODEL, safetensors(3000, b"\5"))
    kept.commit()
    assert keep(kept) is None

    assert "other content" in reasons(kept, MODEL, cached=True)[MODEL]


def test_an_old_ledger_takes_receipts(kept: Rig, tmp_path: Path) -> None:
    """One that was made before there were receipts is not begun anew for them."""
    del tmp_path
    known = kept.store.ledger.known(MODEL)
    with kept.store.ledger.transaction():
        kept.store.ledger._connection.execute("DROP TABLE receipts")
    kept.restart()

    assert known == kept.store.ledger.known(MODEL)
    assert {} == receipts(kept)
    assert keep(kept) is None
    assert MODEL in receipts(kept)
