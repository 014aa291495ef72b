"""What was published stays known, with or without the ledger."""

from collections.abc import Callable
from pathlib import Path

from proof.conftest import write_unit
from support.plain_server import PlainServer
from support.rig import Rig

from hubsync.proof.history import read_history
from hubsync.proof.stores import opened_store
from hubsync.store.proof_rows import Publication

MakeRig = Callable[..., Rig]


def history(rig: Rig) -> list[Publication]:
    """Return what was published."""
    with opened_store(rig.config.targets[0], rig.state) as store:
        return read_history(rig.config.targets[0], store)


def test_each_publication_is_told(server: PlainServer, make_rig: MakeRig, tmp_path: Path) -> None:
    """When, where, how much and why; after the loss of the ledger the commits tell the same but for the why."""
    del tmp_path
    rig = make_rig(server, units=("checkpoint-*",), complete_when=("config.json",))
    write_unit(rig)
    rig.commit()
    rig.work.workers[0].run()
    rig.write("notes.txt", b"four")
    rig.commit()
    rig.work.workers[0].run(now=True)

    unit, notes = history(rig)

    assert ("m0", ("checkpoint-1",), 4, "unit") == (unit.mirror, unit.units, unit.files, unit.trigger)
    assert ((), 1, 4, "asked") == (notes.units, notes.files, notes.bytes, notes.trigger)
    assert (unit.commit, rig.publisher().head()) == (notes.since, notes.commit)
    assert unit.at <= notes.at
    assert unit.took_s is not None

    rig.work.close()
    for file in rig.store.directory.glob("ledger.sqlite*"):
        file.unlink()
    rig.restart()
    assert [unit.commit, notes.commit] == [each.commit for each in history(rig)]
    assert [("checkpoint-1",), ()] == [each.units for each in history(rig)]

    rig.write("more.txt", b"more")
    rig.commit()
    rig.work.workers[0].run()
    assert ["", "", "schedule"] == [each.trigger for each in history(rig)]
