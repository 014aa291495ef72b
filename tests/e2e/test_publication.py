"""What arrives on the mirrors, when, in which commits, and what it costs on the way."""

import subprocess
from pathlib import Path

from huggingface_hub import HfApi
from outside import (
    expect_sound_history,
    git,
    history,
    opened_files,
    own_bytes,
    paths_at,
    pinned,
    repository,
    strace,
    wait_until,
)
from support.running import (
    Daemon,
    digests,
    download,
    endpoint,
    hubsync,
    write_checkpoint,
    write_config,
    write_safetensors,
)

from hubsync.localhub import LocalHub

UNIT = "checkpoint-5"
FIRST, SECOND = "m0:acme/x", "m1:acme/x"
LFS = tuple(  # as `git lfs install` sets it up, for one command
    word
    for setting in (
        "smudge=git-lfs smudge -- %f",
        "process=git-lfs filter-process",
        "clean=git-lfs clean -- %f",
        "required=true",
    )
    for word in ("-c", f"filter.lfs.{setting}")
)


def two_mirrors(tmp_path: Path, source: Path, *hubs: LocalHub, **settings: str) -> Path:
    return write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x" for hub in hubs}, **settings)


def test_a_directory_becomes_two_mirrors_that_hold_the_same_bytes(
    tmp_path: Path, source: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """Files of all kinds and names are byte-equal in a download and in a clone; a unit comes in one commit."""
    write_checkpoint(source / UNIT)
    for name in ("a b.dat", 'quo"te', "star*[x]?.dat", "#hash", "!bang", "tab\there", "größe", "sub/weights", "-dash"):
        (source / name).parent.mkdir(exist_ok=True)
        (source / name).write_bytes(b"\0binary " + name.encode())
    (source / "with space\nand 'quotes\".txt").write_text("hello")
    (source / "empty.bin").touch()
    (source / "picture.png").write_bytes(b"\x89PNG\0\1\2")
    (source / "run.sh").write_text("#!/bin/sh\n")
    (source / "run.sh").chmod(0o755)

    done = hubsync(two_mirrors(tmp_path, source, hub, other_hub), "once")

    assert 0 == done.returncode, done.stderr
    for number, one in enumerate((hub, other_hub)):
        assert digests(source) == download(one, "acme/x", tmp_path / f"copy{number}")
        titles = history(repository(one), "%s")
        assert 1 == sum(title.startswith(UNIT) for title in titles)
        assert "initial commit" == titles[-1]
    clone = tmp_path / "clone"
    subprocess.run(
        ["git", *LFS, "clone", "-q", hub.url.replace("://", f"://x:{hub.token}@") + "/acme/x", clone], check=True
    )
    assert digests(source) == {path: oid for path, oid in digests(clone).items() if not path.startswith(".git/")}
    assert "" == git(clone, *LFS, "status", "--porcelain")  # git and git-lfs agree on which file is a pointer


def test_what_others_commit_stays(tmp_path: Path, source: Path, config: Path, hub: LocalHub) -> None:
    """A card and a file made in the web page between two publications stay, and our next commit stands on theirs."""
    (source / "README.md").write_text("ours\n")
    (source / "a.txt").write_text("a\n")
    assert 0 == hubsync(config, "once").returncode
    api = HfApi(endpoint=hub.url, token=hub.token)
    for path, content in (("README.md", b"theirs\n"), ("extra.txt", b"extra\n"), ("a.txt", b"changed by others\n")):
        api.upload_file(path_or_fileobj=content, path_in_repo=path, repo_id="acme/x")
    foreign = history(repository(hub))[0]
    (source / "README.md").write_text("ours again\n")
    (source / "b.txt").write_text("b\n")

    done = hubsync(config, "once")

    assert 0 == done.returncode, done.stderr
    assert "mirror.foreign_edit" in done.stderr
    assert foreign in history(repository(hub))
    download(hub, "acme/x", tmp_path / "copy")
    held = {path: (tmp_path / "copy" / path).read_text() for path in ("README.md", "extra.txt", "a.txt", "b.txt")}
    assert {"README.md": "theirs\n", "extra.txt": "extra\n", "a.txt": "a\n", "b.txt": "b\n"} == held


def test_a_unit_goes_up_as_it_is_written_and_appears_whole(
    tmp_path: Path, source: Path, state: Path, hub: LocalHub, other_hub: LocalHub
) -> None:
    """Shards are uploaded while the unit grows; each mirror's history has it complete or not at all; bytes are equal."""
    config = two_mirrors(tmp_path, source, hub, other_hub)
    shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"]
    with Daemon(config, HUBSYNC_LOG_LEVEL="debug") as daemon:
        daemon.wait_for("watch.started")
        for shard in shards:
            write_safetensors(source / UNIT / shard, 300_000)
            daemon.wait_for("object.uploaded", count=2)  # on both mirrors
        (source / "loose.txt").write_text("does not wait for the unit")
        daemon.wait_for("mirror.published", count=2)
        (source / UNIT / "model.safetensors.index.json").write_text(f'{{"weight_map": {{"a": "{shards[0]}"}}}}')
        (source / UNIT / "trainer_state.json").write_text('{"global_step": 5}')
        daemon.wait_for("unit.published", count=2, unit=UNIT)
        assert 0 == daemon.stop()

    whole = {path for path in digests(source) if path.startswith(UNIT)}
    for number, one in enumerate((hub, other_hub)):
        directory = repository(one)
        assert {frozenset(), frozenset(whole)} == {frozenset(paths_at(directory, c, UNIT)) for c in history(directory)}
        assert digests(source) == download(one, "acme/x", tmp_path / f"copy{number}")
    assert [] == pinned(state)
    assert {1} == {path.stat().st_nlink for path in source.rglob("*") if path.is_file()}


def test_a_mirror_that_is_away_costs_neither_the_other_nor_the_disk(
    tmp_path: Path, source: Path, state: Path, hub: LocalHub
) -> None:
    """One Hub goes on alone; what the other lacks takes under 1 % of its size, reaches it by itself, and is let go."""
    size = 64 << 20
    other = LocalHub(tmp_path / "other-hub")
    other.start()
    config = two_mirrors(tmp_path, source, hub, other)
    port = int(other.url.rpartition(":")[2])
    with Daemon(config) as daemon:
        daemon.wait_for("daemon.ready")
        other.stop()
        write_safetensors(source / "model.safetensors", size)
        daemon.wait_for("mirror.published", mirror=FIRST)
        behind = daemon.wait_for("heartbeat", mirrors_ok=1, mirrors_failing=1)

        failed = [entry for entry in daemon.events if entry["event"] == "mirror.failed"]
        assert {("network", SECOND)} == {(entry["error_kind"], entry["mirror"]) for entry in failed}
        assert (1, True) == (behind["backlog_files"], size <= behind["backlog_bytes"] < size + 1000)
        assert behind["oldest_unpublished_s"] > 0
        assert size <= sum(path.stat().st_size for path in pinned(state))
        assert own_bytes(state) < size / 100
        with LocalHub(tmp_path / "other-hub", port) as again:
            daemon.wait_for("mirror.recovered", mirror=SECOND)
            wait_until(lambda: not pinned(state), "the objects are let go")
            assert digests(source) == download(again, "acme/x", tmp_path / "copy")
        assert 0 == daemon.stop()


def test_a_restart_over_an_unchanged_source_reads_sends_and_commits_nothing(
    tmp_path: Path, source: Path, config: Path, hub: LocalHub
) -> None:
    """Started again and asked to publish, the daemon opens no file of the source, uploads nothing, commits nothing."""
    write_checkpoint(source / UNIT)
    (source / "notes.txt").write_text("notes")
    assert 0 == hubsync(config, "once").returncode
    before = history(repository(hub))
    hub.forget_requests()
    trace = tmp_path / "trace"

    with Daemon(config, *strace(trace, "open,openat,openat2"), HUBSYNC_LOG_LEVEL="debug") as daemon:
        daemon.wait_for("inventory.taken", changed=0)
        hubsync(config, "flush")
        daemon.wait_for("heartbeat")
        assert set() == opened_files(trace, source)
        assert [] == [request for request in hub.requests if request.method != "GET"]
        assert before == history(repository(hub))

        (source / "notes.txt").write_text("changed")
        daemon.wait_for("mirror.published", files=1)
        assert {"notes.txt"} == opened_files(trace, source)  # what is watched for does show
        assert 0 == daemon.stop()


def test_a_file_that_grows_slower_than_quiet_is_never_torn(source: Path, config: Path, hub: LocalHub) -> None:
    """A weight file that is appended to with pauses is held each time it is quiet, and published once, whole."""
    whole = source.parent / "whole"
    write_safetensors(whole, 400_000)
    content = whole.read_bytes()
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        with (source / "model.safetensors").open("wb") as file:
            for start in range(0, len(content), 150_000):
                file.write(content[start : start + 150_000])
                file.flush()
                if start + 150_000 < len(content):
                    daemon.wait_for("file.held", path="model.safetensors")
        (source / "other.txt").write_text("never waits")
        daemon.wait_for("mirror.published")
        wait_until(lambda: "model.safetensors" in paths_at(repository(hub)), "it is published")
        assert 0 == daemon.stop()

    assert 1 == len(git(repository(hub), "log", "--format=%h", "main", "--", "model.safetensors").splitlines())
    assert content == download_one(hub, "model.safetensors", source.parent)


def download_one(hub: LocalHub, name: str, directory: Path) -> bytes:
    download(hub, "acme/x", directory / "copy", allow_patterns=[name])
    return (directory / "copy" / name).read_bytes()


def test_thousands_of_files_at_once_all_arrive(tmp_path: Path, source: Path, config: Path, hub: LocalHub) -> None:
    """A burst of 3,000 files, a directory that is moved in, and one that is made from inside it: nothing is missed."""
    write_checkpoint(tmp_path / "staging" / "deep" / UNIT)
    with Daemon(config) as daemon:
        daemon.wait_for("watch.started")
        (tmp_path / "staging").rename(source / "moved")
        for number in range(3000):
            path = source / f"d{number % 30}" / f"e{number % 7}" / f"{number}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(str(number))
        wanted = set(digests(source))
        daemon.wait_for("unit.published", unit=f"moved/deep/{UNIT}")
        wait_until(lambda: wanted == paths_at(repository(hub)) - {".gitattributes"}, "all files are published")
        assert 0 == daemon.stop()

    expect_sound_history(repository(hub))


def test_a_source_may_come_late_go_and_come_back(tmp_path: Path, source: Path, config: Path, hub: LocalHub) -> None:
    """A source that is not there halts its target only; as soon as it is there, it is published; no loss on the mirror."""
    source.rmdir()
    config.write_text(config.read_text().replace("[[target]]", '[defaults]\ninventory_every = "1s"\n[[target]]'))
    with Daemon(config) as daemon:
        daemon.wait_for("target.halted", error_kind="source")
        source.mkdir()
        (source / "first.txt").write_text("1")
        daemon.wait_for("target.resumed")
        daemon.wait_for("mirror.published")
        source.rename(tmp_path / "elsewhere")
        daemon.wait_for("target.halted")
        source.mkdir()
        (source / "second.txt").write_text("2")
        daemon.wait_for("target.resumed")
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert {"first.txt", "second.txt"} == paths_at(repository(hub)) - {".gitattributes"}


def test_a_source_that_goes_is_missed_without_an_inventory(
    tmp_path: Path, source: Path, config: Path, hub: LocalHub
) -> None:
    """Moved away, nothing is deleted on the mirror; re-created under the same name, it is watched again."""
    (source / "a.txt").write_text("a")
    with Daemon(config) as daemon:
        daemon.wait_for("mirror.published")
        source.rename(tmp_path / "elsewhere")
        daemon.wait_for("target.halted")
        source.mkdir()
        (source / "a.txt").write_text("a")
        (source / "b.txt").write_text("b")
        daemon.wait_for("target.resumed")
        daemon.wait_for("mirror.published")
        assert 0 == daemon.stop()

    assert {"a.txt", "b.txt"} == paths_at(repository(hub)) - {".gitattributes"}


def test_a_dataset_on_a_branch_below_a_path(tmp_path: Path, source: Path, hub: LocalHub) -> None:
    """A mirror may be a dataset, a branch that is not there yet, and a directory of it; the rest stays as it was."""
    write_checkpoint(source / UNIT)
    config = write_config(tmp_path / "hubsync.toml", source, {endpoint(hub): "acme/x"})
    mirrors = '"m0:acme/x", { repo = "m0:datasets/acme/d@dev", path_in_repo = "runs/one", required = false }'
    config.write_text(config.read_text().replace('"m0:acme/x"', mirrors))

    done = hubsync(config, "once")

    assert 0 == done.returncode, done.stderr
    options = {"repo_type": "dataset", "revision": "dev"}
    held = download(hub, "acme/d", tmp_path / "copy", **options)
    assert {f"runs/one/{path}": oid for path, oid in digests(source).items()} == held
    assert {".gitattributes"} >= paths_at(hub.directory / "datasets/acme/d.git")
