import json
import os
import re
from pathlib import Path
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from hubsync.config.load import load_config
from hubsync.errors import ConfigError

# Keys that are known, with any values, reach deeper than any text would.
KEYS = st.sampled_from(
    [
        "version",
        "include",
        "endpoint",
        "hub",
        "url",
        "token",
        "file",
        "env",
        "command",
        "insecure",
        "upload_rate",
        "defaults",
        "target",
        "name",
        "source",
        "mirrors",
        "repo",
        "path_in_repo",
        "quiet",
        "schedule",
        "exclude",
        "units",
        "on_foreign_edit",
        "README.md",
        "lfs",
        "threshold",
        "batch",
        "card",
        "sections",
        "store_dir",
        "service",
        "state_dir",
        "log",
        "level",
        "\x85",
    ]
)
SCALARS = st.one_of(
    st.integers(-1, 10**5),
    st.booleans(),
    st.text(max_size=6),
    st.sampled_from(["a/b", "x:a/b@c", "~", "/", "*", "1s", "hub"]),
)
TREES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=20
)


def spell(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {spell(child)}" for key, child in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(spell, value)) + "]"

    return json.dumps(value)


@example('"include"=["/"]')
@given(
    st.one_of(
        st.text(),
        st.dictionaries(KEYS, TREES).map(lambda tree: "\n".join(f"{json.dumps(key)} = {spell(tree[key])}" for key in tree)),
    )
)
def test_any_text_is_loaded_or_refused(tmp_path: Path, text: str) -> None:
    """Whatever stands in the file, the answer is a config or one ConfigError of well-formed lines."""
    path = tmp_path / "any.toml"
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    try:
        load_config(path, {"HOME": os.fspath(tmp_path)})
    except ConfigError as exc:
        for line in str(exc).splitlines():
            found = re.match(r"(.+?):\d+:\d+: error: .+", line)
            assert found, line
            assert found[1].startswith(os.fspath(tmp_path)) or "include" in text, line  # what it includes may lie anywhere
