"""Compares what lies on a Hub with what was written, as a user would: download it with huggingface_hub, hash it.

The listing alone, which is quick, tells when the time for that has come.
"""

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.hf_api import RepoFile
from huggingface_hub.utils.tqdm import disable_progress_bars
from msgspec import Struct

from hubsync.demo.record import Record, digest
from hubsync.errors import HubsyncError

_OWN_DIRECTORY = ".cache"  # where huggingface_hub keeps notes in a local_dir


class Comparison(Struct, frozen=True):
    """How the files on a Hub compare with those that were written; all are paths."""

    same: tuple[str, ...]
    different: tuple[str, ...]
    missing: tuple[str, ...]
    added: tuple[str, ...]


def compare(written: Mapping[str, Record], found: Mapping[str, Record]) -> Comparison:
    """Compare *found* with *written*."""
    both = sorted(written.keys() & found.keys())
    same = tuple(path for path in both if written[path].sha256 == found[path].sha256)

    return Comparison(
        same,
        tuple(path for path in both if written[path].sha256 != found[path].sha256),
        tuple(sorted(written.keys() - found.keys())),
        tuple(sorted(found.keys() - written.keys())),
    )


class Repository:
    """The repository of the demo on one Hub, as a client sees it."""

    def __init__(self, url: str, token: str, repo_id: str) -> None:
        self._url = url
        self._token = token
        self._repo_id = repo_id
        self._api = HfApi(endpoint=url, token=token)

    def lacks(self, written: Mapping[str, Record]) -> list[str]:
        """Return the paths of *written* that the Hub does not list with this content."""
        try:
            listed = {
                item.path: item.lfs.sha256 if item.lfs else item.blob_id
                for item in self._api.list_repo_tree(self._repo_id, recursive=True)
                if isinstance(item, RepoFile)
            }
        except HfHubHTTPError:  # no repository yet
            listed = {}

        return [path for path, record in written.items() if listed.get(path) not in {record.sha256, record.blob}]

    def download(self, into: Path) -> dict[str, Record]:
        """Download everything, digest it, and remove it again."""
        disable_progress_bars()
        try:
            snapshot_download(self._repo_id, endpoint=self._url, token=self._token, local_dir=into)
        except (HfHubHTTPError, OSError, ValueError) as exc:
            raise HubsyncError(f"the download from {self._url} failed: {exc}") from exc
        else:
            return {path.relative_to(into).as_posix(): digest(path) for path in _files(into)}
        finally:
            shutil.rmtree(into, ignore_errors=True)


def _files(directory: Path) -> Iterator[Path]:
    own = directory / _OWN_DIRECTORY / "huggingface"
    return (path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_relative_to(own))
