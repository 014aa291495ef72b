"""Finds what speaks Xet, the Hub's storage that sends only what it lacks: git-xet for git-lfs, hf_xet for the HTTP API.

https://huggingface.co/docs/hub/xet/using-xet-storage#git. Neither is hubsync's own, and neither knows ``upload_rate``.
"""

import shutil

from hubsync.config.model import Endpoint, Mirror
from hubsync.config.rates import Rate
from hubsync.errors import ToolMissingError
from hubsync.monitor.text import format_bytes

_ELSE = 'or leave out transfer = "xet"'


def git_xet() -> str:
    """Return the path of git-xet.

    Raises:
        ToolMissingError: it is not on the PATH.
    """
    found = shutil.which("git-xet")
    if found is None:
        raise ToolMissingError("git-xet is not installed", hint=f"install git-xet beside git-lfs, {_ELSE}")

    return found


def hf_xet() -> str:
    """Return the version of hf_xet.

    Raises:
        ToolMissingError: it is not installed.
    """
    from importlib.metadata import PackageNotFoundError, version  # noqa: PLC0415 - 20 ms, and few use Xet

    try:
        return version("hf_xet")
    except PackageNotFoundError:
        raise ToolMissingError("hf_xet is not installed", hint=f"pip install hf_xet, {_ELSE}") from None


def git_xet_config() -> dict[str, str]:
    """Return git config that lets git-lfs offer Xet to the Hub and start git-xet if the Hub takes it."""
    prefix = "lfs.customtransfer.xet"
    return {
        f"{prefix}.path": git_xet(),
        f"{prefix}.args": "transfer",
        f"{prefix}.concurrent": "true",
        "lfs.basictransfersonly": "false",
    }


def describe_transfer(mirror: Mirror, endpoint: Endpoint) -> str:
    """Return who sends large files to *mirror*, for a person.

    Raises:
        ToolMissingError: what the config asks for is not installed.
    """
    if mirror.transfer == "xet":
        tool = f"hf_xet {hf_xet()}" if mirror.transport == "http" else f"git-xet ({git_xet()}), if the Hub offers Xet"
        return f"by {tool}; upload_rate does not hold"
    if mirror.transport == "http":
        return f"by huggingface_hub, {_spell(endpoint.upload_rate)}"
    if mirror.transfer == "git-lfs":
        return "by git-lfs itself; upload_rate does not hold"
    return f"by hubsync's agent for git-lfs, {_spell(endpoint.upload_rate)}"


def _spell(rate: Rate) -> str:
    rates = {row.bytes_per_s for row in rate.rows if row.bytes_per_s}
    if not rates:
        return "as fast as it goes"
    least = f"{format_bytes(min(rates))}/s"
    return f"at most {least}" if len(rates) == len(rate.rows) == 1 else f"by timetable, down to {least}"
