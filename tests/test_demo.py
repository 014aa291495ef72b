import contextlib
import os
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from hubsync.config.load import load_config
from hubsync.demo import _check_packages, run_demo
from hubsync.demo.child import _parse
from hubsync.demo.compare import compare
from hubsync.demo.disk import DiskUse
from hubsync.demo.place import Place, make_place, template_text, write_config
from hubsync.demo.record import Record, digest
from hubsync.demo.report import Outcome, Report, make_report
from hubsync.demo.run import Scale
from hubsync.demo.story import Story
from hubsync.errors import HubsyncError

CONFIG = Path(__file__).parents[1] / "config" / "demo.toml"
OID = "ab" * 32
SHARD = Record(1000, OID, "cd" * 20)


def written(path: str, record: Record = SHARD) -> dict[str, Any]:
    return {"event": "written", "path": path, **record._asdict()}


def published(hub: str) -> dict[str, Any]:
    at = "1970-01-01T00:01:45Z"
    return {"event": "unit.published", "level": "info", "mirror": hub, "unit": "checkpoint-1", "timestamp": at}


def saved_story() -> Story:
    """Return the story of one checkpoint that was saved at the second 100."""
    story = Story(("first", "second"))
    for said in (
        {"event": "saving", "unit": "checkpoint-1"},
        written("checkpoint-1/a.safetensors"),
        {"event": "saved", "unit": "checkpoint-1", "at": 100.0},
    ):
        story.feed_writer(said)

    return story


def report_on(story: Story, found: Mapping[str, Record]) -> Report:
    comparisons = {hub: compare(story.records, found) for hub in story.hubs}
    return make_report(Outcome(story, comparisons, DiskUse(), quiet_s=1))


# --- the config


def test_the_config_in_the_repository_is_the_one_in_the_package() -> None:
    """What a reader sees in config/ is what the demo runs."""
    shown = CONFIG.read_text("utf-8")

    assert shown == template_text()


def test_the_config_is_valid_as_it_stands() -> None:
    """`hubsync -c config/demo.toml check` accepts it: one target, both Hubs as mirrors."""
    config = load_config(CONFIG, {})

    assert ["first", "second"] == [mirror.name for target in config.targets for mirror in target.mirrors]


def test_a_directory_with_any_name_can_be_shown(tmp_path: Path) -> None:
    """Quotes, spaces and other letters in a path do not break the config."""
    place = Place(tmp_path / "place", tmp_path / 'my "model"\\ ü')
    place.directory.mkdir()
    write_config(place, {"first": "http://127.0.0.1:1", "second": "http://127.0.0.1:2"})
    config = load_config(place.config, {})

    assert place.source == config.targets[0].source
    assert place.state == config.service.state_dir
    assert "http://127.0.0.1:2" == config.endpoints["second"].url


def test_nothing_is_written_into_the_directory_that_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`hubsync demo .` keeps its own files elsewhere."""
    monkeypatch.chdir(tmp_path)
    place = make_place(tmp_path, 0)
    place.remove()

    assert not place.directory.is_relative_to(tmp_path)
    assert [] == list(tmp_path.iterdir())


def test_a_directory_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two Hubs and a download need room; that is said before anything is done."""
    monkeypatch.chdir(tmp_path)

    with pytest.raises(HubsyncError, match="are free"):
        make_place(None, 10**18)
    assert [] == list((tmp_path / ".demo").iterdir())


def test_a_missing_package_is_named_with_its_cure() -> None:
    """Without the extra, the reader is told what to install."""
    with pytest.raises(HubsyncError, match="no_such_package") as caught:
        _check_packages("json", "no_such_package")

    assert "pip install 'hubsync[demo]'" == caught.value.hint


# --- what it tells


def test_the_delay_counts_from_the_last_write() -> None:
    """A checkpoint's delay is the time of the daemon's line, less the time of the writer's last."""
    story = saved_story()
    story.feed_daemon(published("first"))

    assert {"first": 5.0} == story.units["checkpoint-1"].lag_s


def test_a_checkpoint_that_is_deleted_while_it_is_owed_is_pointed_out() -> None:
    """The reader learns which Hub does not have it yet."""
    story = saved_story()
    story.feed_daemon(published("first"))
    lines = story.feed_writer({"event": "deleted", "unit": "checkpoint-1"})

    assert ["deletes checkpoint-1, which second does not have yet"] == [line.text for line in lines]


def test_objects_that_go_up_before_the_checkpoint_ends_are_counted() -> None:
    """Only what a Hub has before the last file is written counts as early."""
    story = Story(("first", "second"))
    story.feed_writer({"event": "saving", "unit": "checkpoint-1"})
    story.feed_writer(written("checkpoint-1/a.safetensors"))
    uploaded = {"event": "object.uploaded", "oid": OID, "bytes": 1000, "timestamp": "1970-01-01T00:00:01Z"}
    story.feed_daemon({**uploaded, "mirror": "first"})
    story.feed_writer({"event": "saved", "unit": "checkpoint-1", "at": 100.0})
    story.feed_daemon({**uploaded, "mirror": "second"})

    assert {"first": 1000, "second": 0} == story.early_bytes


def test_what_is_no_log_line_is_shown_as_it_is() -> None:
    """A traceback on the daemon's standard error is not swallowed."""
    said = _parse(b"Traceback (most recent call last):\n")
    lines = Story(("first",)).feed_daemon(said)

    assert ["Traceback (most recent call last):"] == [line.text for line in lines]


# --- what it concludes


@pytest.mark.parametrize(("level", "lines"), [("warning", 0), ("error", 1)])
def test_what_a_library_warns_of_is_no_part_of_the_story(level: str, lines: int) -> None:
    """At the level debug, the scheduler warns of each run that takes longer than its interval."""
    said = {"event": "library.logged", "level": level, "message": "Execution of job skipped", "logger": "apscheduler"}

    assert lines == len(Story(("first",)).feed_daemon(said))


def test_everything_that_matches_is_good() -> None:
    """Files that hubsync adds are named and do no harm."""
    story = saved_story()
    report = report_on(story, {**story.records, ".gitattributes": Record(1, "0", "0")})

    assert report.is_good
    assert ("added", ".gitattributes (by hubsync)") in report.facts


@pytest.mark.parametrize("found", [{}, {"checkpoint-1/a.safetensors": Record(1000, "ff" * 32, "")}])
def test_one_file_that_is_missing_or_differs_is_not_good(found: dict[str, Record]) -> None:
    """It is named for each Hub, and the conclusion does not say that everything matched."""
    report = report_on(saved_story(), found)

    assert not report.is_good
    assert ["checkpoint-1/a.safetensors"] * 2 == [path for path, _ in report.problems]
    assert report.conclusion.startswith("Not everything matched")


def test_what_is_held_back_is_not_good_but_no_mismatch() -> None:
    """An unfinished checkpoint of the reader is told with hubsync's reason, once."""
    story = Story(("first", "second"), {"checkpoint-9/a.safetensors": SHARD})
    story.feed_daemon(
        {"event": "unit.abandoned", "level": "warning", "unit": "checkpoint-9", "reason": "1 shard is missing"}
    )
    report = report_on(story, {})

    assert not report.is_good
    assert (("checkpoint-9/", "held back by hubsync, incomplete: 1 shard is missing"),) == report.problems


def test_a_hard_link_costs_no_space(tmp_path: Path) -> None:
    """Only blocks that no file of the source shares are extra; those of a deleted file are kept for a Hub."""
    state, source = tmp_path / "state", tmp_path / "source"
    content = b"x" * 8192
    for directory in (state, source):
        directory.mkdir()
    linked, kept, copied = "a" * 64, "b" * 64, "c" * 64
    (source / "linked").write_bytes(content)
    (state / linked).hardlink_to(source / "linked")
    for name in (kept, copied, "ledger.sqlite"):
        (state / name).write_bytes(content)
    use = DiskUse()
    use.sample(state, {linked: "link", kept: "link", copied: "copy"}, set())

    assert (2 * 8192, 8192) == (use.extra, use.kept)


# --- the whole


@pytest.mark.timeout(300)  # two Hubs, a service, and four checkpoints that are trained for
def test_all_arrives_on_both_hubs_though_one_is_down_while_a_checkpoint_is_deleted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The demo ends by itself with 0, shows the proof, and leaves nothing behind; the Hub that was down has all of it."""
    monkeypatch.chdir(tmp_path)
    code = run_demo(None, scale=Scale(size_mb=8, checkpoints=4))
    said = capsys.readouterr().out

    assert 0 == code, said
    told = " ".join(said.split())  # a slow machine has more to say: the first Hub may lack it, too
    assert re.search(r"deletes checkpoint-200, which (first and )?second does not have yet", told)
    assert "has all of checkpoint-200, too" in said
    assert "Everything matched: 62 files" in said
    assert [] == list(tmp_path.iterdir())


def test_a_directory_of_the_reader_is_only_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All of it arrives, whatever the names, and its content and names stay as they were."""
    monkeypatch.chdir(tmp_path)
    source = tmp_path / "models"
    for path in ("a/config.json", "a/b c/[ü].txt", "weights.bin", "empty"):
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(b"{}" if path.endswith("json") else path.encode() * (path != "empty"))
    for name in ("a:b.txt", "x" * 250, "back\\slash", os.fsdecode(b"latin-\xe9"), ".gitmodules"):
        (source / name).write_bytes(b"left out")
    (source / "new\nline\x1b[31m.txt").write_bytes(b"odd")
    before = {path: digest(path) for path in source.rglob("*") if path.is_file()}
    code = run_demo(source)
    said = capsys.readouterr().out

    assert 0 == code, said
    assert "Everything matched: 5 files" in said
    assert "left out" in said
    assert "\x1b[31m" not in said
    assert before == {path: digest(path) for path in source.rglob("*") if path.is_file()}
    assert [source] == list(tmp_path.iterdir())


def test_an_interrupt_ends_all_that_was_started(tmp_path: Path) -> None:
    """Ctrl-C leaves no process and no file, and the exit code says so."""
    argv = (sys.executable, "-m", "hubsync", "demo")
    environment = {**os.environ, "PYTHONPATH": str(CONFIG.parents[1])}
    with subprocess.Popen(argv, cwd=tmp_path, stdout=subprocess.PIPE, env=environment, text=True) as demo:
        told = next(line for line in demo.stdout if "is ready" in line)
        demo.send_signal(signal.SIGINT)
        rest, _ = demo.communicate(timeout=30)

    assert "hubsync" in told
    assert "Interrupted" in rest
    assert 130 == demo.returncode
    assert [] == list(tmp_path.iterdir())
    assert [] == processes_that_name(tmp_path)


def processes_that_name(directory: Path) -> list[bytes]:
    """Return the command lines of all processes that name something in *directory*."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(path.read_bytes())

    return [line for line in lines if os.fsencode(directory) in line]
