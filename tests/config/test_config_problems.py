import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from hubsync.config.load import load_config
from hubsync.errors import ConfigError

TOKEN = "hf_" + "aB3" * 12
MINIMAL = '[[target]]\nname = "a"\nsource = "runs"\nmirrors = ["acme/a"]\n'

Report = Callable[..., list[str]]


def test_five_mistakes_are_five_lines(report: Report) -> None:
    """One report names all mistakes, each with its place and cure, in the order of the lines."""
    lines = report(
        "[endpoint.hub]\n"
        f'token = "{TOKEN}"\n'
        "[defaults]\n"
        "quiet = 30\n"
        'shedule = "15m"\n'
        "[[target]]\n"
        'name = "a"\n'
        'source = "runs"\n'
        'mirrors = ["acme/a", { repo = "onprom:acme/b" }]\n'
        'deletes = "keeep"\n'
        "[endpoint.onprem]\n"
        'url = "https://hub.example"\n'
    )

    assert ["hubsync.toml:2:1", "hubsync.toml:4:1", "hubsync.toml:5:1", "hubsync.toml:9:24", "hubsync.toml:10:1"] == [
        line.partition(": ")[0] for line in lines
    ]
    assert "error: endpoint.hub.token: looks like a token; put it into a file" in lines[0]
    assert 'error: defaults.quiet: must be a duration with its unit, in quotes; write "30s"' in lines[1]
    assert "error: defaults.shedule: is an unknown key; did you mean schedule?" in lines[2]
    assert (
        'target[0].mirrors[1].repo: names an endpoint that no [endpoint.NAME] declares; did you mean "onprem"?' in lines[3]
    )
    assert 'target[0].deletes: must be "keep" or "propagate"; did you mean "keep"?' in lines[4]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (MINIMAL.replace("mirrors", "mirors"), "target[0].mirors: is an unknown key; did you mean mirrors?"),
        (MINIMAL.replace("source", "sorce"), "target[0].sorce: is an unknown key; did you mean source?"),
        ('[endpoint.x]\nulr = "https://a.b"\n' + MINIMAL, "endpoint.x.ulr: is an unknown key; did you mean url?"),
    ],
)
def test_a_misspelt_key_is_not_missing_as_well(report: Report, text: str, said: str) -> None:
    """The key that was meant is not called missing: one slip, one line."""
    (line,) = report(text)

    assert line.endswith(said)


def test_a_mistake_in_the_defaults_is_reported_once(report: Report) -> None:
    """However many targets take it over."""
    lines = report(
        "[defaults]\nquiet = 5\n" + MINIMAL + MINIMAL.replace('"a"', '"b"').replace("/a", "/b").replace("runs", "r2")
    )

    assert ["hubsync.toml:2:1: error: defaults.quiet"] == [line.rpartition(": ")[0] for line in lines]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("quiet = 30", 'quiet: must be a duration with its unit, in quotes; write "30s"'),
        ("quiet = true", "quiet: must be a duration"),
        ("quiet_s = 30.0", "quiet_s: is an unknown key; did you mean quiet?"),
        ("lfs = { threshold = 5000000 }", 'lfs.threshold: must be a size with its unit, in quotes; write "5MB"'),
        ("heartbeat = '1m'", "heartbeat: is unknown here; it belongs in [log]"),
        ("nonsense = 1", "nonsense: is an unknown key; known are "),
        ('inventory_every = "0s"', 'inventory_every: is too short; write at least "1s"'),
        ('schedule = "0s"', "schedule: must be at least"),
        ('schedule = "61 * * * *"', "schedule: has a minute outside 0-59"),
        ('publish = "revision"', 'publish: must be "tree" or "revisions"; did you mean "revisions"?'),
        ("publish = 1", 'publish: must be "tree" or "revisions"'),
        ('units = "ckpt"', "units: must be a list"),
        ('units = ["../x"]', "units[0]: must be a glob below the source"),
        ('units = ["a", "!b"]', "units[1]: must be a glob below the source"),
        ("exclude = [1]", "exclude[0]: must be text, in quotes"),
        ('exclude = ["a", ""]', "exclude[1]: is a pattern that matches nothing"),
        ('exclude = ["["]', "exclude[0]: is a pattern that matches nothing"),
        ('on_foreign_edit = "their"', 'on_foreign_edit: must be "ours", "theirs", "halt" or a table'),
        (
            'on_foreign_edit = { x = "their" }',
            'on_foreign_edit.x: must be "ours", "theirs" or "halt"; did you mean "theirs"?',
        ),
        ("batch = { max_files = 0 }", "batch.max_files: must be greater than or equal to 1"),
        ("batch = { max_files = true }", "batch.max_files: must be a whole number"),
        ("batch = 5", "batch: must be a table"),
        ('card = { enabled = "yes" }', "card.enabled: must be true or false"),
        ("card = { titel = 1 }", "card.titel: is an unknown key"),
        ('store_dir = ""', "store_dir: is no usable path"),
        ('store_dir = "~other/x"', 'store_dir: starts with a "~"'),
        ('store_dir = "a\\u0000b"', "store_dir: is no usable path"),
    ],
)
def test_bad_values_in_a_target_are_explained(report: Report, line: str, said: str) -> None:
    """Each mistake is named with what to write instead, in a target and in the defaults alike."""
    in_target, in_defaults = report(MINIMAL + line), report(f"[defaults]\n{line}\n{MINIMAL}")

    assert [True] == [found.startswith("hubsync.toml:5:") and f"error: target[0].{said}" in found for found in in_target]
    assert [True] == [found.startswith("hubsync.toml:2:") and f"error: defaults.{said}" in found for found in in_defaults]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "1:1: error: declares no target"),
        ('[[targets]]\nname = "a"', "1:1: error: targets: is an unknown key; did you mean target?"),
        ('[target]\nname = "a"', "1:1: error: target: must be a list of tables; write [[target]] in double brackets"),
        ("version = 2\n" + MINIMAL, "1:1: error: version: is not a version that this hubsync reads; write 1"),
        ("version = true\n" + MINIMAL, "1:1: error: version: must be a whole number"),
        (
            '[[target]]\nname = "a"\nsource = "x"',
            '1:1: error: target[0].mirrors: is missing; write it, e.g. mirrors = ["acme/llama-sft"]',
        ),
        (MINIMAL.replace('["acme/a"]', "[]"), "4:1: error: target[0].mirrors: is empty"),
        (MINIMAL.replace('["acme/a"]', '"acme/a"'), "4:1: error: target[0].mirrors: must be a list"),
        (MINIMAL.replace('["acme/a"]', '["acme/a", "b"]'), "4:22: error: target[0].mirrors[1]: is no repository"),
        (MINIMAL.replace('["acme/a"]', '[{ name = "b" }]'), "4:12: error: target[0].mirrors[0].repo: is missing"),
        (
            MINIMAL.replace('["acme/a"]', '[{ repo = "a/b", path_in_repo = "../x" }]'),
            "4:28: error: target[0].mirrors[0].path_in_repo: must be",
        ),
        (MINIMAL.replace('"a"', '"a/b"'), "2:1: error: target[0].name: is no usable name"),
        (MINIMAL.replace('"runs"', "7"), "3:1: error: target[0].source: must be a path"),
        (MINIMAL.replace('"runs"', '"hubsync.toml"'), "3:1: error: target[0].source: is a file"),
        ('[endpoint.x]\ntimeout = "1s"\n' + MINIMAL, "1:1: error: endpoint.x.url: is missing"),
        ('endpoint."a b".url = "https://h"\n' + MINIMAL, '1:10: error: endpoint."a b": is no usable name'),
        ('endpoint.x.url = "http://h"\n' + MINIMAL, "1:12: error: endpoint.x.url: would send the token in clear text"),
        ('endpoint.x.url = "https://u:geheim@h"\n' + MINIMAL, "1:12: error: endpoint.x.url: must not hold a user"),
        ('endpoint.hub.token = "geheim"\n' + MINIMAL, "1:14: error: endpoint.hub.token: must not stand here itself"),
        ("endpoint.hub.token = {}\n" + MINIMAL, "1:14: error: endpoint.hub.token: must have exactly one"),
        (
            'endpoint.hub.token = { env = "A", file = "b" }\n' + MINIMAL,
            "1:14: error: endpoint.hub.token: must have exactly one",
        ),
        (
            'endpoint.hub.token = { env = "geheim!" }\n' + MINIMAL,
            "1:24: error: endpoint.hub.token.env: is no name of an environment",
        ),
        (
            'endpoint.hub.token = { credential = "../geheim" }\n' + MINIMAL,
            "1:24: error: endpoint.hub.token.credential: is no name",
        ),
        (
            f'endpoint.hub.token = {{ env = "{TOKEN}" }}\n' + MINIMAL,
            "1:24: error: endpoint.hub.token.env: looks like a token",
        ),
        (f'defaults.card.tags = ["x", "{TOKEN}"]\n' + MINIMAL, "1:28: error: defaults.card.tags[1]: looks like a token"),
        (f'hf_token = "{TOKEN}"\n' + MINIMAL, "1:1: error: hf_token: looks like a token"),
        (f"[endpoint.{TOKEN}]\n" + MINIMAL, "1:1: error: endpoint.[redacted]: looks like a token"),
        ("service.level = 'info'\n" + MINIMAL, "1:9: error: service.level: is unknown here; it belongs in [log]"),
        ('include = "x"\n' + MINIMAL, "1:1: error: include: must be a list"),
        ('include = ["x.toml"]\n' + MINIMAL, "1:12: error: include[0]: names a file that does not exist"),
        ("a = 1\na = 2\n", "2:6: error: is not TOML: cannot overwrite a value; the key stands here twice"),
        ("quiet = 30s\n", "1:11: error: is not TOML: "),
        ("quiet = s\n", "1:9: error: is not TOML: invalid value; text stands in quotes"),
        ("a = [1,\n  2", "2:4: error: is not TOML: unclosed array"),
        ("a = " + "9" * 5000, "1:1: error: is not TOML: a number is too long"),
        ("a = " + "[" * 9999, "1:1: error: is nested too deeply"),
    ],
)
def test_bad_files_are_explained(report: Report, text: str, said: str) -> None:
    """Every mistake leads to its place, and no value is repeated."""
    lines = report(text)

    assert lines[0].startswith(f"hubsync.toml:{said}"), lines
    assert "geheim" not in "".join(lines)


def test_every_file_is_reported(report: Report) -> None:
    """A file that cannot be read hides no mistake in another, and makes up none."""
    lines = report(
        'include = ["*.toml"]\n[[target]]\nname = 1\nsource = "a"\nmirrors = ["onprem:a/b"]',
        bad="[endpoint",
        worse="log.level = 'info'",
    )

    assert ["hubsync.toml:3:1", "worse.toml:1:1", "bad.toml:1:10"] == [line.partition(": ")[0] for line in lines]
    assert "log: is unknown here; it belongs in the main file" in lines[1]


def test_files_that_are_no_config_are_refused(tmp_path: Path) -> None:
    """What is missing, a directory, or no UTF-8 is said in one line with its place."""
    (tmp_path / "latin.toml").write_bytes(b'a = 1\nb = "\xc3\xa4\xe4"')
    (tmp_path / "large.toml").write_bytes(b"\n" * (16 * 2**20 + 1))
    for name, said in {
        "none.toml": ":1:1: error: cannot be read: No such file or directory; name a readable",
        ".": ":1:1: error: cannot be read: Is a directory; name a readable",
        "latin.toml": ":2:7: error: is not UTF-8 here",
        "large.toml": ":1:1: error: is too large for a config",
    }.items():
        with pytest.raises(ConfigError, match=f"^{re.escape(str(tmp_path / name))}{said}"):
            load_config(tmp_path / name, {})


def test_a_fifo_is_no_config(tmp_path: Path) -> None:
    """Neither as the main file nor as one that is included: nobody writes to it, and to open it would wait for good."""
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "main.toml").write_text('include = ["fifo.toml"]\n')
    for name in ("fifo.toml", "main.toml"):
        with pytest.raises(
            ConfigError, match=r"fifo.toml:1:1: error: cannot be read: it is a FIFO, not a regular file; name a"
        ):
            load_config(tmp_path / name, {})


def test_a_pipe_that_a_shell_hands_over_is_a_config(tmp_path: Path) -> None:
    """As in ``hubsync -c <(...) check``: what writes to it is there."""
    text = f'[service]\nstate_dir = "{tmp_path}/state"\n[[target]]\nname = "a"\nsource = "/data"\nmirrors = ["acme/x"]\n'
    reading, writing = os.pipe()
    os.write(writing, text.encode())
    os.close(writing)
    try:
        assert ["a"] == [target.name for target in load_config(Path(f"/dev/fd/{reading}"), {}).targets]
    finally:
        os.close(reading)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (
            "retention.local = { keep_lst = 3 }",
            "target[0].retention.local.keep_lst: is an unknown key; did you mean keep_last?",
        ),
        ('retention.local = { keep_last = "3" }', "retention.local.keep_last: must be a whole number, without quotes"),
        ("retention.local = { keep_last = 0 }", "retention.local.keep_last: must be greater than or equal to 1"),
        (
            "retention.local = { min_free = 500 }",
            'retention.local.min_free: must be a size with its unit, in quotes; write "500B"',
        ),
        ("retention.local = {}", "target[0].retention.local: names no rule; write e.g. { keep_last = 3 }"),
        ("retention.local = 3", "target[0].retention.local: must be a table, { key = value }"),
        ("retention = { locl = { keep_last = 3 } }", "target[0].retention.locl: is an unknown key; did you mean local?"),
        ("retention.remote = { free_storage = true }", "target[0].retention.remote: names no rule"),
        (
            'retention.remote = { keep_last = 1, min_free = "1GB" }',
            "retention.remote.min_free: is unknown here; it belongs in",
        ),
        ('provenance = "yes"', "target[0].provenance: must be true or false, without quotes"),
    ],
)
def test_retention_is_checked_as_all_else(report: Report, line: str, said: str) -> None:
    """Each mistake in what units stay is said at its place, with the cure."""
    (problem,) = report(f"{MINIMAL}{line}\n")

    assert said in problem


def test_a_mirror_has_one_way_to_keep_units(report: Report) -> None:
    """``keep_latest`` and ``retention.remote`` would fight."""
    mirror = '{ repo = "acme/a", keep_latest = 2, retention.remote = { keep_last = 3 } }'
    (problem,) = report(MINIMAL.replace('"acme/a"', mirror))

    assert "has keep_latest and retention.remote; keep one" in problem


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ('priority = "idel"', 'service.priority: must be "idle", "low" or "normal"; did you mean "idle"?'),
        ("hash_threads = 0", "service.hash_threads: must be greater than or equal to 1"),
        ('hash_threads = "2"', "service.hash_threads: must be a whole number, without quotes"),
        ("read_rate = 80", 'service.read_rate: must be a rate, in quotes; write "80MB/s"'),
        ("pressure = 50", "service.pressure: must be a table, { key = value }"),
        ('pressure = { cpu = "50" }', "service.pressure.cpu: must be a number, without quotes"),
        ("pressure = { io = 101 }", "service.pressure.io: must be less than or equal to 100"),
        ("pressure = { memry = 5 }", "service.pressure.memry: is an unknown key; did you mean memory?"),
    ],
)
def test_a_wrong_budget_is_said_with_its_cure(report: Report, line: str, said: str) -> None:
    """As every other key."""
    (told,) = report(f"[service]\n{line}\n{MINIMAL}")

    assert told.endswith(said)
