"""A mirror that refuses one file: that file waits, alone or with its unit, and everything else goes up."""

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import HfApi
from structlog.testing import capture_logs
from support.plain_server import AnswerError, PlainServer, Request
from support.rig import REPO, Rig, safetensors

from hubsync.errors import MirrorError
from hubsync.explain import explain
from hubsync.localhub import LocalHub
from hubsync.report import describe_target

MakeRig = Callable[..., Rig]

# As the Hub does: every commit that is pushed is checked, and the answer names the files.
HOOK = """#!/bin/sh
found=$(while read old new ref; do
  for commit in $(git rev-list $new --not --all); do
    git ls-tree -r --name-only $commit | while read path; do
      git cat-file blob "$commit:$path" | grep -q REFUSED && echo "  - $path (ref: $ref)"
    done
  done
done | sort -u)
[ -z "$found" ] && exit 0
{
  echo "-------------------------------------------------------------------------"
  echo "Your push was rejected because it contains files larger than 10 MiB."
  echo "Please use https://git-lfs.github.com/ to store large files."
  echo
  echo "Offending files:"
  echo "$found"
  echo "-------------------------------------------------------------------------"
} >&2
exit 1
"""


@pytest.fixture
def strict(server: PlainServer) -> PlainServer:
    """Return a server that refuses what contains the word."""
    set_hook(server, HOOK)
    return server


def set_hook(server: PlainServer, text: str) -> Path:
    hook = server.root / f"{REPO}.git" / "hooks" / "pre-receive"
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(text)
    hook.chmod(0o755)
    return hook


def test_one_refused_file_holds_back_itself_only(rig: Rig, strict: PlainServer) -> None:
    """The others arrive, the refused one is said with its cure, and no commit on the mirror ever carries it."""
    rig.write("a.txt", b"a")
    rig.update()
    rig.write("bad.txt", b"REFUSED")
    rig.write("b.txt", b"b")

    with capture_logs() as entries:
        rig.update()

    assert {"a.txt": b"a", "b.txt": b"b"} == strict.read_all(REPO)
    [told] = [entry for entry in entries if entry["event"] == "file.rejected"]
    assert ("bad.txt", True) == (told["path"], "lfs" in told["hint"])
    assert ["bad.txt"] == list(rig.publisher().refusals.reasons())
    assert [] == rig.publisher().backlog()


def test_a_refused_file_that_is_deleted_here_is_nobodys_matter(rig: Rig, strict: PlainServer) -> None:
    """Nothing has to be mended nor waited for, also after it was tried again; and no mirror is said to keep it."""
    rig.write("a.txt", b"a")
    bad = rig.write("bad.txt", b"REFUSED")
    rig.update()
    bad.unlink()
    worker = rig.work.workers[0]

    for flush in (False, True):
        rig.commit()
        worker.run(now=flush)

        status = describe_target(rig.work, mode="events", is_paused=False)
        assert ("ok", ()) == (status.state, status.waiting)
        assert worker.publisher.holds(rig.store.head() or "", None)
    [one] = explain(rig.config, str(bad), Path("/"))
    assert ("is not there any more", False) == (one.state, one.mirrors[0].published)
    assert {"a.txt": b"a"} == strict.read_all(REPO)


def test_a_file_that_a_server_refuses_in_its_own_words_is_held_back(rig: Rig, server: PlainServer) -> None:
    """A secret scanner has no format: the path that it names is enough, and no pushed commit carries the file."""
    offending = '  echo "  - $path (ref: $ref)"'
    hook = HOOK.replace(offending.strip(), 'echo "Secret found at $path:1"')
    hook = hook[: hook.index("{\n")] + 'echo "push declined: $found" >&2\nexit 1\n'
    set_hook(server, hook)
    rig.write("keys/bad.txt", b"REFUSED")
    rig.write("bad.txt", b"b")

    with capture_logs() as entries:
        rig.update()

    assert {"bad.txt": b"b"} == server.read_all(REPO)
    [told] = [entry for entry in entries if entry["event"] == "file.rejected"]
    assert ("keys/bad.txt", True) == (told["path"], "exclude" in told["hint"])


def test_a_refused_file_is_not_sent_again_until_something_changes(rig: Rig, strict: PlainServer) -> None:
    """Later publications go through at once, without the refused file."""
    rig.write("bad.txt", b"REFUSED")
    rig.write("a.txt", b"a")
    rig.update()
    strict.requests.clear()
    rig.write("a.txt", b"b")

    rig.update()

    assert 1 == len([request for request in strict.requests if request.is_push])
    assert {"a.txt": b"b"} == strict.read_all(REPO)


def test_a_refused_file_that_is_mended_arrives(rig: Rig, strict: PlainServer) -> None:
    """Once the file is another one, it goes up as any other, and nothing is held back any more."""
    rig.write("bad.txt", b"REFUSED")
    rig.write("a.txt", b"a")
    rig.update()
    rig.write("bad.txt", b"fine")

    rig.update()

    assert {"a.txt": b"a", "bad.txt": b"fine"} == strict.read_all(REPO)
    assert {} == rig.publisher().refusals.reasons()


@pytest.mark.parametrize("how", ["restart", "flush"])
def test_a_refused_file_is_tried_again(rig: Rig, strict: PlainServer, how: str) -> None:
    """After a restart or a flush the mirror is asked once more: it may take the file now."""
    rig.write("bad.txt", b"REFUSED")
    rig.write("a.txt", b"a")
    rig.update()
    set_hook(strict, "#!/bin/sh\nexit 0\n")

    if how == "restart":
        rig.restart()
        rig.publish()
    else:
        rig.work.workers[0].run(now=True)

    assert {"a.txt": b"a", "bad.txt": b"REFUSED"} == strict.read_all(REPO)


def test_a_version_that_was_replaced_before_it_was_published_is_no_hindrance(rig: Rig, strict: PlainServer) -> None:
    """Only an older snapshot has what is refused: the newest state arrives whole, and nothing is held back."""
    rig.write("a.txt", b"REFUSED")
    rig.commit()
    rig.write("a.txt", b"fine")
    rig.write("b.txt", b"b")
    rig.commit()

    rig.publish()

    assert {"a.txt": b"fine", "b.txt": b"b"} == strict.read_all(REPO)
    assert {} == rig.publisher().refusals.reasons()


def test_a_refused_file_holds_back_its_unit(make_rig: MakeRig, strict: PlainServer) -> None:
    """A unit is published whole or not at all; mended, it arrives whole, in one commit."""
    rig = make_rig(strict, units=("checkpoint-*",), complete_when=("DONE",))
    whole = {"model.safetensors": safetensors(2000), "notes.txt": b"REFUSED", "config.json": b"{}", "DONE": b""}
    for path, content in whole.items():
        rig.write(f"checkpoint-1/{path}", content)
    rig.write("a.txt", b"a")

    with capture_logs() as entries:
        rig.update()

    assert {"a.txt": b"a"} == strict.read_all(REPO)
    assert ["checkpoint-1"] == [entry["unit"] for entry in entries if entry["event"] == "file.rejected"]
    assert [] == [entry for entry in entries if entry["event"] == "unit.published"]
    rig.write("checkpoint-1/notes.txt", b"fine")
    with capture_logs() as entries:
        rig.update()
    assert {"a.txt": b"a"} | {
        f"checkpoint-1/{path}": content for path, content in {**whole, "notes.txt": b"fine"}.items()
    } == strict.read_all(REPO)
    assert 2 == len(strict.history(REPO))
    assert ["checkpoint-1"] == [entry["unit"] for entry in entries if entry["event"] == "unit.published"]


def test_a_refusal_that_names_no_file_of_ours_parks(rig: Rig, server: PlainServer) -> None:
    """What cannot be held back is left to the operator."""
    set_hook(server, "#!/bin/sh\necho 'Offending files:\n  - other.txt (ref: refs/heads/main)' >&2\nexit 1\n")
    rig.write("a.txt", b"a")

    with pytest.raises(MirrorError) as caught:
        rig.update()

    assert ("rejected", False) == (caught.value.error_kind, caught.value.retryable)


@pytest.mark.parametrize("status", [413, 422])
def test_one_refused_object_holds_back_itself_only(rig: Rig, server: PlainServer, status: int) -> None:
    """A large file that the storage refuses is said and left out; all other large and small files arrive."""
    rig.write("bad.safetensors", safetensors(5000, b"\7"))
    rig.write("good.safetensors", safetensors(6000))
    rig.write("a.txt", b"a")
    oid = hashlib.sha256(safetensors(5000, b"\7")).hexdigest()

    def refuse(request: Request) -> None:
        if request.method == "PUT" and oid in request.path:
            raise AnswerError(status)

    server.before = refuse
    with capture_logs() as entries:
        rig.update()

    assert {"good.safetensors": safetensors(6000), "a.txt": b"a"} == server.read_all(REPO)
    assert ["bad.safetensors"] == [entry["path"] for entry in entries if entry["event"] == "file.rejected"]
    assert ["bad.safetensors"] == list(rig.publisher().refusals.reasons())
    server.before = lambda _: None
    rig.work.workers[0].run(now=True)
    assert safetensors(5000, b"\7") == server.read(REPO, "bad.safetensors")


@pytest.mark.parametrize("status", [401, 403, 404, 410, 507])
def test_what_a_storage_in_trouble_did_not_take_is_kept(make_rig: MakeRig, server: PlainServer, status: int) -> None:
    """The unit is not refused: it waits with its pins, and arrives after the trainer has deleted it."""
    rig = make_rig(server, units=("checkpoint-*",), complete_when=("DONE",))
    rig.write("checkpoint-1/model.safetensors", safetensors(2000))
    rig.write("checkpoint-1/DONE", b"")
    rig.commit()

    def refuse(request: Request) -> None:
        if request.method == "PUT":
            raise AnswerError(status)

    server.before = refuse
    worker = rig.work.workers[0]
    with capture_logs() as entries:
        worker.run()
    rig.work.release()
    shutil.rmtree(rig.source / "checkpoint-1")
    rig.commit()
    worker.run(now=True)
    rig.work.release()

    [told] = [entry for entry in entries if entry["event"] == "mirror.failed"]
    assert "storage" in told["hint"]
    assert not [entry for entry in entries if entry["event"] == "file.rejected"]
    server.before = lambda _: None
    worker.run(now=True)
    assert safetensors(2000) == server.read(REPO, "checkpoint-1/model.safetensors")
    assert worker.trouble is None


@pytest.mark.parametrize(("code", "is_refused"), [(403, True), (422, True), (401, False), (404, False), (507, False)])
def test_the_batch_says_of_an_object_what_is_wrong(rig: Rig, server: PlainServer, code: int, is_refused: bool) -> None:  # noqa: FBT001
    """An error beside one object refuses its content if it is about content; else nothing is left out."""
    rig.write("bad.safetensors", safetensors(5000))
    rig.commit()
    error = {"code": code, "message": "not this one"}

    def refuse(request: Request) -> None:
        if request.path.endswith("/objects/batch"):
            oid = hashlib.sha256(safetensors(5000)).hexdigest()
            raise AnswerError(200, json.dumps({"objects": [{"oid": oid, "error": error}]}).encode())

    server.before = refuse
    worker = rig.work.workers[0]
    worker.run()
    rig.work.release()

    assert is_refused == bool(rig.publisher().refusals.reasons())
    assert is_refused == (worker.trouble is None)
    assert rig.held_objects() or is_refused


def test_a_copy_that_the_disk_changed_is_made_again(make_rig: MakeRig, hub: LocalHub, api: HfApi, tmp_path: Path) -> None:
    """Storage refuses it as what it is (400, for its digest), and would for ever; the source still has the right bytes."""
    rig = make_rig(hub, capture="copy", units=("checkpoint-*",), complete_when=("DONE",))
    content = safetensors(5000)
    rig.write("checkpoint-1/model.safetensors", content)
    rig.write("checkpoint-1/DONE", b"")
    rig.commit()
    with rig.store.objects.path(hashlib.sha256(content).hexdigest()).open("r+b") as copy:
        copy.seek(4000)
        copy.write(b"\7")
    with capture_logs() as entries:
        rig.work.workers[0].run()

    assert ["model.safetensors"] == [Path(entry["path"]).name for entry in entries if entry["event"] == "object.spoiled"]
    got = api.hf_hub_download(REPO, "checkpoint-1/model.safetensors", local_dir=tmp_path / "got")
    assert content == Path(got).read_bytes()
