from collections.abc import Callable
from pathlib import Path

import pytest

from hubsync.config.load import load_config
from hubsync.config.model import Config
from hubsync.errors import ConfigError

TOKEN = "hf_" + "aB3" * 12


@pytest.fixture
def load(tmp_path: Path) -> Callable[..., Config]:
    """Return a function that writes texts as files, the first as the config, and loads it."""

    def write_and_load(text: str, environment: dict[str, str] | None = None, **included: str) -> Config:
        for name, content in {"hubsync": text, **included}.items():
            (tmp_path / f"{name}.toml").write_text(content)
        return load_config(tmp_path / "hubsync.toml", {"HOME": str(tmp_path / "home"), **(environment or {})})

    return write_and_load


@pytest.fixture
def report(load: Callable[..., Config], tmp_path: Path) -> Callable[..., list[str]]:
    """Return a function that loads a bad config and returns its problems, with paths relative to its directory."""

    def load_and_report(text: str, environment: dict[str, str] | None = None, **included: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            load(text, environment, **included)

        assert 78 == caught.value.exit_code
        assert TOKEN not in str(caught.value)
        return str(caught.value).replace(f"{tmp_path}/", "").splitlines()

    return load_and_report
