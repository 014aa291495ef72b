"""``safe`` says yes only if every required mirror holds exactly these bytes now; and then it does say yes."""

import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from proof.conftest import api, ask, change, git_of, objects_of, reasons, write_unit
from support.plain_server import AnswerError, PlainServer
from support.rig import REPO, Rig, safetensors

from hubsync.localhub import LocalHub
from hubsync.proof import sound
from hubsync.proof.safe import locate

MakeRig = Callable[..., Rig]
MODEL = "checkpoint-1/model.safetensors"


@pytest.fixture
def published(hub_rig: Rig) -> Rig:
    """Give a target whose one unit is on its mirror."""
    write_unit(hub_rig)
    hub_rig.update()
    assert {} == reasons(hub_rig, "checkpoint-1")
    return hub_rig


# --- yes


def test_what_is_published_is_safe(published: Rig) -> None:
    """A unit, a file of it and the whole source are safe, with the mirror's commit and the time."""
    unit, file, whole = ask(published, "checkpoint-1", MODEL, "")

    assert (True, True, True) == (unit.is_safe, file.is_safe, whole.is_safe)
    assert (4, 1, 4) == (unit.files, file.files, whole.files)
    assert published.publisher().head() == unit.mirrors[0].commits["main"]


def test_a_server_without_the_api_proves_too(rig: Rig, server: PlainServer) -> None:
    """Plain git and LFS are asked in their own ways."""
    write_unit(rig)
    rig.update()

    assert {} == reasons(rig, "checkpoint-1")

    server.objects.clear()
    assert "not its object" in reasons(rig, "checkpoint-1")[MODEL]


@pytest.mark.parametrize("mirror", [{}, {"transport": "http"}])
def test_a_unit_in_a_revision_of_its_own_is_safe(hub: LocalHub, make_rig: MakeRig, mirror: dict[str, str]) -> None:
    """With ``publish = "revisions"`` the unit's branch is asked, and only that counts."""
    rig = make_rig(hub, mirror=mirror, units=("checkpoint-*",), publish="revisions", complete_when=("config.json",))
    write_unit(rig)
    rig.update()
    assert {} == reasons(rig, "checkpoint-1")

    change(hub, {"config.json": b"{1}"}, branch="checkpoint-1")
    assert ["checkpoint-1/config.json"] == list(reasons(rig, "checkpoint-1"))


def test_a_squashed_history_still_holds_it(published: Rig, hub: LocalHub) -> None:
    """What counts is what the head shows."""
    api(hub).super_squash_history(REPO)

    assert {} == reasons(published, "checkpoint-1")


def test_pins_that_go_meanwhile_do_not_matter(published: Rig) -> None:
    """Our own links move the ctime of a file, not its content."""
    published.work.release()

    assert {} == reasons(published, "checkpoint-1")


def test_what_is_empty_is_safe(published: Rig) -> None:
    """There is nothing to lose in an empty directory, nor in the mark that our own callbacks leave."""
    (published.source / "checkpoint-1" / ".hubsync-complete").touch()
    os.utime(published.source / "checkpoint-1" / ".hubsync-complete", (1, 1))
    (published.source / "checkpoint-1" / "nothing").mkdir()
    (published.source / "none").mkdir()
    for directory in (
        published.source / "checkpoint-1" / "nothing",
        published.source / "checkpoint-1",
        published.source / "none",
    ):
        os.utime(directory, (1, 1))

    assert {} == reasons(published, "checkpoint-1", "none")

    (published.source / "checkpoint-1" / ".hubsync-complete").write_text("words")
    assert ["checkpoint-1/.hubsync-complete"] == list(reasons(published, "checkpoint-1"))


# --- no: here


def test_what_is_not_there_is_not_safe(published: Rig) -> None:
    """Nothing is proved of a path that does not exist."""
    assert "no such path" in reasons(published, "checkpoint-2")["checkpoint-2"]


def test_a_change_with_forged_time_is_seen(published: Rig) -> None:
    """Same size, same mtime, other bytes."""
    file = published.source / MODEL
    before = file.stat()
    with file.open("r+b") as opened:
        opened.seek(before.st_size - 1)
        opened.write(b"\2")
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    assert "other content" in reasons(published, "checkpoint-1")[MODEL]


def test_a_new_file_that_no_mirror_has_is_not_safe(published: Rig) -> None:
    """Everything in a directory counts, whether it would be published or not."""
    published.write("checkpoint-1/late.txt", b"late")
    published.write("checkpoint-1/x.tmp", b"t")
    (published.source / "checkpoint-1" / "link").symlink_to("nowhere")
    (published.source / "checkpoint-1" / "dir").symlink_to("sub")
    os.mkfifo(published.source / "checkpoint-1" / "fifo")

    found = reasons(published, "checkpoint-1")

    late = {f"checkpoint-1/{name}" for name in ("late.txt", "x.tmp", "link", "dir", "fifo")}
    assert late <= found.keys()
    assert "not published" in found["checkpoint-1/x.tmp"]


def test_a_file_that_somebody_writes_is_not_safe(published: Rig) -> None:
    """Not while it is open for writing, nor while it is mapped; reading does not matter."""
    with (published.source / MODEL).open("rb"):
        assert {} == reasons(published, "checkpoint-1")
    with (published.source / MODEL).open("r+b") as opened:
        assert "open for writing" in reasons(published, "checkpoint-1")[MODEL]
        mapped = mmap.mmap(opened.fileno(), 0)
    assert "open for writing" in reasons(published, "checkpoint-1")[MODEL]
    mapped.close()
    assert {} == reasons(published, "checkpoint-1")


def test_a_directory_that_was_written_just_now_is_not_safe(hub: LocalHub, make_rig: MakeRig) -> None:
    """Its writer may be between two files."""
    rig = make_rig(hub, quiet_s=3600.0)
    rig.write("a/b", b"x")

    assert {"a", "a/b"} == reasons(rig, "a").keys()
    assert "settled" in reasons(rig, "a")["a/b"]


def test_a_link_is_what_its_target_holds(published: Rig) -> None:
    """A link to a file of the source is published as that file; a directory behind a link is not looked at."""
    (published.source / "latest.json").symlink_to("checkpoint-1/config.json")
    (published.source / "latest").symlink_to("checkpoint-1")
    published.update()

    assert {} == reasons(published, "latest.json")
    assert "symlink" in reasons(published, "latest")["latest"]


def test_deletions_that_reach_the_mirror_are_not_safe(hub: LocalHub, make_rig: MakeRig) -> None:
    """With ``deletes = "propagate"`` the mirror would lose it too."""
    rig = make_rig(hub, deletes="propagate")
    write_unit(rig)
    rig.update()

    assert "propagate" in reasons(rig, "checkpoint-1")["checkpoint-1"]


def test_paths_are_found_as_rm_finds_them(published: Rig, tmp_path: Path) -> None:
    """Links on the way are followed, the last part is not, and what lies in no source is nobody's."""
    (tmp_path / "way").symlink_to(published.source)
    (published.source / "out").symlink_to(tmp_path)

    def find(path: str, cwd: Path = tmp_path) -> str | None:
        found = locate(published.config, path, cwd)
        return None if found is None else found[1]

    assert "checkpoint-1" == find("way/checkpoint-1/") == find("checkpoint-1", published.source)
    assert "" == find(".", published.source) == find("source") == find("..", published.source / "checkpoint-1")
    assert "out" == find("source/out")
    assert [None] * 5 == [find("source/out/x"), find("other"), find(""), find("/"), find("..", published.source)]


# --- no: there


DAMAGES: dict[str, Callable[[LocalHub], object]] = {
    "edited": lambda hub: change(hub, {MODEL: safetensors(3000, b"\7")}),
    "lost": lambda hub: [path.unlink() for path in objects_of(hub)],
    "deleted": lambda hub: api(hub).delete_repo(REPO),
    "down": lambda hub: hub.stop(),
    "forbidden": lambda hub: (hub.directory.parent / "token-0").write_text("hf_wrong\n"),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_what_the_mirror_lost_is_not_safe(published: Rig, hub: LocalHub, damage: Callable[[LocalHub], object]) -> None:
    """Whatever was done to it behind our back."""
    damage(hub)

    assert MODEL in reasons(published, "checkpoint-1", MODEL)


@pytest.mark.parametrize("path", [MODEL, "checkpoint-1/config.json"])
def test_a_link_there_is_not_the_file(published: Rig, hub: LocalHub, path: str) -> None:
    """Its content is the same to the byte, and yet git makes a link of it; the Hub's API does not tell."""
    entry = git_of(hub, "rev-parse", f"main:{path}")
    make_link(hub, path, entry)

    assert "no file" in reasons(published, "checkpoint-1")[path]
    assert path in reasons(published, path, cached=True)


def make_link(hub: LocalHub, path: str, blob: str) -> None:
    """Make a link of a file on *hub*, by hand."""
    author = ("-c", "user.name=o", "-c", "user.email=o@x")
    git_of(hub, "read-tree", "main")
    git_of(hub, "update-index", "--cacheinfo", f"120000,{blob},{path}")
    commit = git_of(hub, *author, "commit-tree", "-p", "main", "-m", "by hand", git_of(hub, "write-tree"))
    git_of(hub, "update-ref", "refs/heads/main", commit)


@pytest.mark.parametrize("at", [0, 700, -1])
def test_an_object_of_other_bytes_is_not_safe(published: Rig, hub: LocalHub, at: int) -> None:
    """It is there, its size is right, and it is not the file; no receipt is left, and right again it is safe."""
    whole = spoil(hub, at)

    assert "damaged" in reasons(published, MODEL)[MODEL]
    assert MODEL in reasons(published, MODEL, cached=True)

    for path, content in whole.items():
        path.write_bytes(content)
    assert {} == reasons(published, MODEL)


def test_a_large_object_is_compared_in_spots_or_read_whole(
    hub_rig: Rig, hub: LocalHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its start and end always count, all of it with ``read_data``; what was found damaged stays suspect."""
    monkeypatch.setattr(sound, "WHOLE_BYTES", 1000)
    write_unit(hub_rig, files={"model.safetensors": safetensors(300_000), "config.json": b"{}"})
    hub_rig.update()
    assert {} == reasons(hub_rig, MODEL)

    whole = spoil(hub, -1)
    assert "damaged" in reasons(hub_rig, MODEL)[MODEL]
    for path, content in whole.items():
        path.write_bytes(content)
    assert {} == reasons(hub_rig, MODEL)

    monkeypatch.setattr(sound.secrets, "randbelow", lambda _: 0)
    spoil(hub, 150_000)
    [proof] = ask(hub_rig, MODEL, read_data=True)
    assert not proof.is_safe
    assert "damaged" in reasons(hub_rig, MODEL)[MODEL]


def spoil(hub: LocalHub, at: int) -> dict[Path, bytes]:
    """Change one byte of every object; return what they held."""
    held = {path: path.read_bytes() for path in objects_of(hub)}
    for path, content in held.items():
        path.chmod(0o644)
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
    return held


def test_a_mirror_that_answers_nonsense_proves_nothing(rig: Rig, server: PlainServer) -> None:
    """An address that gives nothing, or something of another size, is no object."""
    write_unit(rig)
    rig.update()

    def give_nothing(request: object) -> None:
        if getattr(request, "host", "") == "storage" and getattr(request, "method", "") == "GET":
            raise AnswerError(200, b"no")

    server.before = give_nothing
    assert [MODEL] == list(reasons(rig, "checkpoint-1"))


def test_every_required_mirror_must_hold_it(hub: LocalHub, other_hub: LocalHub, make_rig: MakeRig) -> None:
    """The one that lacks it is named."""
    rig = make_rig(hub, other_hub)
    write_unit(rig)
    rig.update(0)
    proof = ask(rig, "checkpoint-1")[0]
    assert {"m1"} == {objection.mirror for objection in proof.objections}

    rig.publish(1)
    assert {} == reasons(rig, "checkpoint-1")


def test_what_no_required_mirror_gets_is_not_safe(hub: LocalHub, make_rig: MakeRig) -> None:
    """A mirror for weights says nothing of the optimizer."""
    rig = make_rig(hub, mirror={"include": ("weights",)})
    write_unit(rig)
    rig.write("checkpoint-1/optimizer.pt", b"\0")
    rig.update()

    found = reasons(rig, "checkpoint-1")
    assert "no required mirror" in found["checkpoint-1/optimizer.pt"]
    assert MODEL not in found


# --- receipts


def test_the_last_proof_counts_if_asked_for(published: Rig, hub: LocalHub) -> None:
    """With ``cached`` no mirror is asked; what changed here since is still seen."""
    hub.stop()

    assert {} == reasons(published, "checkpoint-1", cached=True)

    published.write(MODEL, safetensors(3000, b"\3"))
    published.settle()
    assert "other content" in reasons(published, "checkpoint-1", cached=True)[MODEL]


def test_a_receipt_is_dropped_when_the_mirror_says_otherwise(published: Rig, hub: LocalHub) -> None:
    """A proof that failed makes the one before it worthless."""
    change(hub, {MODEL: None})
    assert MODEL in reasons(published, MODEL)

    assert "no receipt" in reasons(published, MODEL, cached=True)[MODEL]
    assert {} == reasons(published, "checkpoint-1/config.json", cached=True)
