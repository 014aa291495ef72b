import json
import re
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from hubsync.config.load import example_text, find_config, json_schema, load_config
from hubsync.config.model import Card, Config, Endpoint, Log, Mirror, Service, Target, TargetSettings, TokenSource
from hubsync.errors import ConfigError, UsageError

MINIMAL = '[[target]]\nname = "a"\nsource = "runs"\nmirrors = ["acme/a"]\n'
EXAMPLE = Path(__file__).parents[2] / "config" / "hubsync.toml"

Load = Callable[..., Config]
Report = Callable[..., list[str]]


def test_four_lines_are_enough(load: Load, tmp_path: Path) -> None:
    """All that is not said has a default, and relative paths start at the file."""
    config = load(MINIMAL)

    assert (
        Config(
            path=tmp_path / "hubsync.toml",
            files=(tmp_path / "hubsync.toml",),
            endpoints={"hub": Endpoint(name="hub", url="https://huggingface.co")},
            targets=(
                Target(
                    name="a",
                    source=tmp_path / "runs",
                    mirrors=(Mirror(name="acme/a", endpoint="hub", repo_type="model", repo_id="acme/a"),),
                ),
            ),
            service=Service(state_dir=tmp_path / "home/.local/state/hubsync"),
            mark=config.mark,
        )
        == config
    )


def test_attributes_carry_units(load: Load) -> None:
    """Text with units becomes plain numbers."""
    config = load(
        'service.min_free = "1GiB"\nlog.heartbeat = "1h"\ndefaults.batch = { max_size = "1TB" }\n'
        '[endpoint.hub]\ntimeout = "1m"\nupload_rate = ["mon 1MB/s", "0"]\n'
        + MINIMAL
        + 'quiet = "200ms"\nschedule = "@hourly"\nlfs = { threshold = "1MiB" }'
    )
    target, hub = config.targets[0], config.endpoints["hub"]

    assert (2**30, 3600.0) == (config.service.min_free_bytes, config.log.heartbeat_s)
    assert (60.0, 1_000_000) == (hub.timeout_s, hub.upload_rate.rate_at(0, 0))
    assert (0.2, "@hourly", 2**20, 10**12) == (
        target.quiet_s,
        target.schedule.cron,
        target.lfs.threshold_bytes,
        target.batch.max_bytes,
    )


def test_a_mirror_is_text_or_a_table(load: Load) -> None:
    """Both spellings give the same mirror; the name is the shortest spelling unless one is given."""
    config = load(
        '[endpoint.onprem]\nurl = "https://hub.example"\n[[target]]\nname = "a"\nsource = "runs"\nmirrors = [\n'
        '"hub:acme/a@main",\n{ repo = "onprem:datasets/team/b@dev" },\n'
        '{ repo = "acme/c", name = "c", path_in_repo = "x/y", private = false, required = false, '
        'on_foreign_edit = "halt" }]'
    )

    assert (
        Mirror(name="acme/a", endpoint="hub", repo_type="model", repo_id="acme/a", branch="main"),
        Mirror(name="onprem:datasets/team/b@dev", endpoint="onprem", repo_type="dataset", repo_id="team/b", branch="dev"),
        Mirror(
            name="c",
            endpoint="hub",
            repo_type="model",
            repo_id="acme/c",
            path_in_repo=PurePosixPath("x/y"),
            private=False,
            required=False,
            on_foreign_edit={"README.md": "theirs", "*": "halt"},
        ),
    ) == config.targets[0].mirrors


def test_targets_win_over_defaults_key_by_key(load: Load) -> None:
    """Tables merge, lists and single values replace."""
    config = load(
        '[defaults]\nexclude = ["a", "b"]\nquiet = "1s"\nlfs = { threshold = "1MB", patterns = ["x"] }\n'
        'card = { license = "mit", sections = { One = "1" } }\nstore_dir = "store"\n'
        + MINIMAL
        + 'exclude = ["c"]\nlfs = { patterns = ["y"] }\n'
        + 'card = { tags = ["t"], base_model = "a/b", sections = { Two = "2" } }'
    )
    target = config.targets[0]

    assert (("c",), 1.0) == (target.exclude, target.quiet_s)
    assert (1_000_000, ("y",)) == (target.lfs.threshold_bytes, target.lfs.patterns)
    assert Card(license="mit", tags=("t",), base_model=("a/b",), sections={"One": "1", "Two": "2"}) == target.card


@pytest.mark.parametrize(
    ("defaults", "target", "mirror", "expected"),
    [
        ("", "", "", {"README.md": "theirs", "*": "ours"}),
        ('"halt"', "", "", {"README.md": "theirs", "*": "halt"}),
        ('{ "*" = "halt", x = "ours" }', '{ "README.md" = "ours" }', "", {"README.md": "ours", "x": "ours", "*": "halt"}),
        ('"halt"', '"ours"', '{ x = "theirs" }', {"README.md": "theirs", "x": "theirs", "*": "ours"}),
    ],
)
def test_foreign_edits_are_decided_per_mirror(
    load: Load, defaults: str, target: str, mirror: str, expected: dict[str, str]
) -> None:
    """Each level adds to the one above; README.md is theirs unless named, and "*" is always there, at the end."""
    config = load(
        (f"[defaults]\non_foreign_edit = {defaults}\n" if defaults else "")
        + '[[target]]\nname = "a"\nsource = "runs"\n'
        + (f"on_foreign_edit = {target}\n" if target else "")
        + f'mirrors = [{{ repo = "acme/a"{", on_foreign_edit = " + mirror if mirror else ""} }}]'
    )

    policies = config.targets[0].mirrors[0].on_foreign_edit

    assert expected == policies
    assert "*" == list(policies)[-1]


def test_included_files_add_targets_and_endpoints(load: Load, tmp_path: Path) -> None:
    """Globs start at the including file, each file is read once, and paths start at the file they stand in."""
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d/b.toml").write_text(
        '[endpoint.onprem]\nurl = "https://hub.example"\n[[target]]\nname = "b"\nsource = "b"\nmirrors = ["onprem:acme/b"]'
    )
    config = load('include = ["conf.d/*.toml", "./conf.d/b.toml", "none/*.toml"]\ndefaults.store_dir = "store"\n' + MINIMAL)

    assert ["a", "b"] == [target.name for target in config.targets]
    assert (tmp_path / "conf.d/b", tmp_path / "store") == (config.targets[1].source, config.targets[1].store_dir)
    assert "https://hub.example" == config.endpoints["onprem"].url
    assert (tmp_path / "hubsync.toml", tmp_path / "conf.d/b.toml") == config.files


@pytest.mark.parametrize(
    ("token", "source"),
    [
        ('{ file = "secret/token" }', {"file": "secret/token"}),
        ('{ env = "HF_TOKEN" }', {"env": "HF_TOKEN"}),
        ('{ credential = "hub-token" }', {"credential": "hub-token"}),
        ('{ command = ["pass", "hf"] }', {"command": ("pass", "hf")}),
    ],
)
def test_tokens_are_named_not_read(load: Load, tmp_path: Path, token: str, source: dict[str, Any]) -> None:
    """A token's source need not exist when the config is loaded."""
    if "file" in source:
        source = {"file": tmp_path / source["file"]}

    assert TokenSource(**source) == load(f"endpoint.hub.token = {token}\n{MINIMAL}").endpoints["hub"].token


@pytest.mark.parametrize(
    ("environment", "state_dir"),
    [
        ({"STATE_DIRECTORY": "/var/lib/one:/var/lib/two", "XDG_STATE_HOME": "/x"}, "/var/lib/one"),
        ({"XDG_STATE_HOME": "/x"}, "/x/hubsync"),
        ({"XDG_STATE_HOME": "relative"}, "/home/u/.local/state/hubsync"),
        ({}, "/home/u/.local/state/hubsync"),
    ],
)
def test_state_has_a_usual_place(load: Load, environment: dict[str, str], state_dir: str) -> None:
    """Systemd's place comes before the user's."""
    assert Path(state_dir) == load(MINIMAL, {"HOME": "/home/u", **environment}).service.state_dir


def test_the_environment_may_name_the_default_hub(load: Load, report: Report) -> None:
    """$HF_ENDPOINT counts where the config is silent, and passes the same checks."""
    environment = {"HF_ENDPOINT": "http://localhost:8000/"}

    assert "http://localhost:8000" == load(MINIMAL, environment).endpoints["hub"].url
    assert "http://localhost:8000" == load('endpoint.hub.timeout = "1s"\n' + MINIMAL, environment).endpoints["hub"].url
    assert "https://h" == load('endpoint.hub.url = "https://h"\n' + MINIMAL, environment).endpoints["hub"].url
    assert "endpoint.hub.url: " in report(MINIMAL, {"HF_ENDPOINT": "http://elsewhere"})[0]


def test_a_byte_order_mark_and_windows_lines_are_fine(tmp_path: Path) -> None:
    """Editors on Windows write them."""
    path = tmp_path / "hubsync.toml"
    path.write_bytes(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())

    assert "a" == load_config(path, {"HOME": "/home/u"}).targets[0].name


def test_the_config_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command line, the environment, the working directory, the user's place; then the report says so."""
    monkeypatch.chdir(tmp_path)
    environment = {"HOME": str(tmp_path / "home")}
    with pytest.raises(ConfigError, match=r"no config found") as caught:
        find_config(None, environment)
    users = tmp_path / "home/.config/hubsync/hubsync.toml"
    users.parent.mkdir(parents=True)
    users.touch()

    assert "hubsync init" in caught.value.hint
    assert users == find_config(None, environment)

    Path("hubsync.toml").touch()

    assert tmp_path / "hubsync.toml" == find_config(None, environment)
    assert tmp_path / "a.toml" == find_config(None, {**environment, "HUBSYNC_CONFIG": "a.toml"})
    assert tmp_path / "b.toml" == find_config(Path("b.toml"), {**environment, "HUBSYNC_CONFIG": "a.toml"})
    assert users == find_config(None, {**environment, "HUBSYNC_CONFIG": "~/.config/hubsync/hubsync.toml"})


def test_without_a_home_the_report_says_what_to_set(report: Report) -> None:
    """A daemon without $HOME needs a state directory."""
    assert 'service.state_dir: starts with a "~" that cannot be expanded here' in report(MINIMAL, {"HOME": ""})[0]


def test_targets_are_found_by_name(load: Load) -> None:
    """A name that is nearly right is answered with the right one."""
    config = load(MINIMAL.replace('name = "a"', 'name = "llama"'))

    assert "llama" == config.target("llama").name
    with pytest.raises(UsageError, match="there is no target 'lama'") as caught:
        config.target("lama")
    assert "did you mean 'llama'?" == caught.value.hint


def test_the_example_loads() -> None:
    """The example that people copy is valid, is what `init` writes, and shows the defaults."""
    config = load_config(EXAMPLE, {"HOME": "/home/u"})
    target = config.targets[0]
    defaults = TargetSettings()

    assert EXAMPLE.read_text() == example_text()
    assert {"units": ("checkpoint-*",)} == {
        name: getattr(target, name)
        for name in TargetSettings.model_fields
        if getattr(target, name) != getattr(defaults, name)
    }
    assert Log() == config.log
    assert Service(state_dir=config.service.state_dir) == config.service
    assert {"hub": Endpoint(name="hub", url="https://huggingface.co")} == config.endpoints


def test_the_example_shows_every_key() -> None:
    """Whoever reads the example has seen all there is, at least as a comment."""
    shown = set(re.findall(r"(\w+) =", example_text()))
    optional = {
        "endpoint",
        "target",
        "defaults",
        "service",
        "log",
        "monitor",
        "card",
        "retention",
        "model_name",
        "library_name",
        "metrics",
        "template",
    }
    keys = {key for table in [json_schema(), *json_schema()["$defs"].values()] for key in _properties(table)}

    assert keys - optional <= shown | {"on_foreign_edit"}


def test_the_schema_accepts_what_is_accepted() -> None:
    """Editors complete from it: TOML's keys, text with units, both spellings of a mirror, no unknown key."""
    schema = json_schema()
    target = schema["$defs"]["TargetTable"]

    assert {"name", "source", "mirrors"} == set(target["required"])
    assert "30s" == target["properties"]["quiet"]["default"]
    assert re.fullmatch(target["properties"]["quiet"]["pattern"], "1h30m")
    assert not re.fullmatch(target["properties"]["quiet"]["pattern"], "30")
    assert ["string", "object"] == [choice["type"] for choice in schema["$defs"]["MirrorTable"]["anyOf"]]
    assert all(table.get("additionalProperties") is False for table in schema["$defs"].values() if "anyOf" not in table)
    assert json.dumps(schema)


def _properties(table: dict[str, Any]) -> set[str]:
    return {key for choice in table.get("anyOf", [table]) for key in choice.get("properties", ())}
