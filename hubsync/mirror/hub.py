"""Owns huggingface_hub: whether a repository exists, whether it is private, and how to make it.

A server without the Hub's API (plain git and LFS) is no error here: then nothing is known, and git will tell.
"""

import contextlib
import errno
import functools
import re
import tempfile
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct
from msgspec.structs import replace

from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import HubsyncError, MirrorError
from hubsync.mirror.failures import ADDRESS_HINT, AskedWait, read_failure, read_retry_after
from hubsync.mirror.hub_facts import HubCommit, HubFile, Pull, RepoState, Visibility
from hubsync.mirror.token import Tokens
from hubsync.mirror.xet import hf_xet
from hubsync.store.pointer import Pointer

if TYPE_CHECKING:
    from io import BufferedIOBase

    from huggingface_hub import CommitOperationAdd, HfApi
    from huggingface_hub.errors import HfHubHTTPError

    from hubsync.mirror.patient import Patience

_CLIENT_LOCK = threading.Lock()
_ANSWER_BYTES = 200  # of a body that is not the Hub's
_UPLOAD_THREADS = 2
# What comes of JSON that is none, is nested without end, or says something else than a Hub does.
_NO_ANSWERS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, OverflowError)
_API_PATH = re.compile(r"/api/|/info/lfs/objects/batch$|/resolve/")
_ASKED: Any = ["private", "sha"]  # of a repository; unasked, it lists all of its files
_LOOKED_UP = 200  # paths in one request
_LOCAL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EIO, errno.ENOENT, errno.EMFILE}


def load_client() -> None:
    """Import huggingface_hub, which takes 200 ms, and make its client, before they are needed."""
    from huggingface_hub import HfApi, get_session  # noqa: F401, PLC0415

    with _CLIENT_LOCK:
        _patience()
    get_session()


class Hub(Struct, frozen=True):
    """The API of one endpoint, as far as mirrors need it."""

    endpoint: Endpoint
    tokens: Tokens

    def look(self, mirror: Mirror) -> RepoState:
        """Return what is at the mirror's address; a repository that was renamed is found by its former name.

        Raises:
            MirrorError: the Hub refuses the token, or cannot be reached.
        """
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError  # noqa: PLC0415 - 200 ms

        api = self._api()  # what is wrong with the token is no failure of the network
        try:
            # Without a timeout of its own this call waits for ever, whatever the client's is.
            info = api.repo_info(mirror.repo_id, repo_type=mirror.repo_type, timeout=self.endpoint.timeout_s, expand=_ASKED)
        except RepositoryNotFoundError as exc:
            if exc.response is not None and exc.response.status_code == HTTPStatus.UNAUTHORIZED:
                raise _translated("look at the repository", exc) from exc  # the client takes each 401 for a missing one
            return RepoState(Visibility.MISSING)
        except HfHubHTTPError as exc:
            return RepoState(self._read_refusal(exc))
        except _NO_ANSWERS:
            return RepoState(Visibility.UNKNOWN, is_page=True)  # something answered, but not as a Hub does
        except Exception as exc:
            raise _translated("look at the repository", exc) from exc

        return RepoState(Visibility.PRIVATE if info.private else Visibility.PUBLIC, info.id, info.sha)

    def create(self, mirror: Mirror) -> bool:
        """Create the mirror's repository; return False if the server has no such API."""
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - 200 ms

        sdk = "static" if mirror.repo_type == "space" else None
        api = self._api()
        try:
            api.create_repo(
                mirror.repo_id, repo_type=mirror.repo_type, private=mirror.private, exist_ok=True, space_sdk=sdk
            )
        except HfHubHTTPError as exc:
            if exc.response is not None and exc.response.status_code in {404, 405, 501} and not _is_hub(exc):
                return False
            raise _translated("create the repository", exc) from exc
        except Exception as exc:
            raise _translated("create the repository", exc) from exc

        return True

    def list_heads(self, mirror: Mirror, *, pulls: bool = False) -> dict[str, str]:
        """Return the commit of each branch; with *pulls* also that of each pull request, by its ref."""
        with _translating("list the branches"):
            refs = self._api().list_repo_refs(mirror.repo_id, repo_type=mirror.repo_type, include_pull_requests=pulls)
        requests = {pull.ref: pull.target_commit for pull in refs.pull_requests or ()}

        return {branch.name: branch.target_commit for branch in refs.branches} | requests

    def list_refs(self, mirror: Mirror) -> dict[str, str]:
        """Return all branches and tags (``refs/heads/main``) and their commits."""
        with _translating("list the revisions"):
            refs = self._api().list_repo_refs(mirror.repo_id, repo_type=mirror.repo_type)
        return {ref.ref: ref.target_commit for ref in (*refs.branches, *refs.tags)}

    def create_branch(self, mirror: Mirror, branch: str) -> None:
        """Create a branch at the head of the default one: the API makes none without history."""
        with _translating("create the branch"):
            self._api().create_branch(mirror.repo_id, repo_type=mirror.repo_type, branch=branch, exist_ok=True)

    def delete_branch(self, mirror: Mirror, branch: str) -> None:
        """Delete a branch."""
        with _translating("delete the branch"):
            self._api().delete_branch(mirror.repo_id, repo_type=mirror.repo_type, branch=branch)

    def squash(self, mirror: Mirror) -> None:
        """Replace the history of the mirror's branch by one commit; it cannot be undone."""
        with _translating("squash the history"):
            self._api().super_squash_history(mirror.repo_id, repo_type=mirror.repo_type, branch=mirror.branch)

    def destroy_objects(self, mirror: Mirror, oids: Collection[str]) -> dict[str, int]:
        """Delete those of the objects *oids* for good that the Hub has; return them, and their sizes by its account."""
        with _translating("delete objects"):
            api = self._api()
            listed = api.list_lfs_files(mirror.repo_id, repo_type=mirror.repo_type)
            found = [file for file in listed if file.file_oid in oids]
            api.permanently_delete_lfs_files(
                mirror.repo_id,
                found,
                rewrite_history=False,
                repo_type=mirror.repo_type,  # nothing shows them any more
            )

        return {file.file_oid: file.size for file in found}

    def list_files(self, mirror: Mirror, revision: str) -> dict[str, HubFile]:
        """Return all files of a revision, by path."""
        with _translating("list the files"):
            listed = self._api().list_repo_tree(
                mirror.repo_id, repo_type=mirror.repo_type, revision=revision, recursive=True
            )
            return _read_files(listed)

    def look_up(self, mirror: Mirror, revision: str, paths: Iterable[str]) -> dict[str, HubFile]:
        """Return those of *paths* that are files of a revision."""
        with _translating("look the files up"):
            asked = list(paths)
            files: dict[str, HubFile] = {}
            for first in range(0, len(asked), _LOOKED_UP):
                some = asked[first : first + _LOOKED_UP]
                found = self._api().get_paths_info(mirror.repo_id, some, repo_type=mirror.repo_type, revision=revision)
                files |= _read_files(found)

            return files

    def read_file(self, mirror: Mirror, revision: str, path: str) -> bytes:
        """Return the content of a small file."""
        with _translating("read a file"), tempfile.TemporaryDirectory() as scratch:
            got = self._api().hf_hub_download(
                mirror.repo_id, path, repo_type=mirror.repo_type, revision=revision, local_dir=scratch
            )
            return Path(got).read_bytes()

    def upload(
        self, mirror: Mirror, objects: Mapping[str, Path], read: "Callable[[Path], BufferedIOBase] | None" = None
    ) -> None:
        """Upload *objects* (oid → file) that no commit names yet; those that the Hub has are not sent again.

        What *read* gives is sent instead of the file; without it, Xet is used.

        Raises:
            ToolMissingError: hf_xet is not installed.
        """
        if read is None:
            _allow_xet()
        from huggingface_hub import CommitOperationAdd  # noqa: PLC0415 - 200 ms

        with _translating("upload"), contextlib.ExitStack() as stack:
            additions = [CommitOperationAdd(oid, path) for oid, path in objects.items()]
            for (oid, path), addition in zip(objects.items(), additions, strict=True):
                if read is not None:  # not at once: a reader would be read to hash it
                    addition.path_or_fileobj = stack.enter_context(read(path))  # type: ignore[assignment]
                addition.upload_info.sha256 = bytes.fromhex(oid)  # known, so that the file is not read to hash it
                addition._upload_mode = "lfs"  # noqa: SLF001 - routed by us, and .gitattributes agrees
            self._api().preupload_lfs_files(
                mirror.repo_id, additions, repo_type=mirror.repo_type, num_threads=_UPLOAD_THREADS
            )

    def commit(self, mirror: Mirror, branch: str, commit: HubCommit) -> str:
        """Make one commit and return its id.

        Raises:
            MirrorError: ``conflict`` if the branch is not at the commit's parent any more.
        """
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete  # noqa: PLC0415 - 200 ms

        summary, _, description = commit.message.strip().partition("\n")
        with _translating("commit"):
            added = [_small(CommitOperationAdd(path, content)) for path, content in commit.contents.items()]
            large = [_large(pointer, CommitOperationAdd(path, b"")) for path, pointer in commit.objects.items()]
            removed = [CommitOperationDelete(path, is_folder=False) for path in commit.removed]
            made = self._api().create_commit(
                mirror.repo_id, [*removed, *added, *large], commit_message=summary,
                commit_description=description.strip() or None, repo_type=mirror.repo_type, revision=branch,
                parent_commit=commit.parent,
            )  # fmt: skip

        return made.oid

    # --- pull requests

    def find_pull(self, mirror: Mirror, title: str) -> Pull | None:
        """Return the open pull request of that *title* that we made, if there is one: others may use the same words."""
        with _translating("list the pull requests"):
            listed = self._api().get_repo_discussions(
                mirror.repo_id, repo_type=mirror.repo_type, discussion_type="pull_request", discussion_status="open",
                author=self._api().whoami(cache=True)["name"],
            )  # fmt: skip
            number = next((one.num for one in listed if one.title == title), None)

        return None if number is None else self.read_pull(mirror, number)

    def read_pull(self, mirror: Mirror, number: int) -> Pull | None:
        """Return a pull request as it is now; ``None`` if there is none of that number."""
        try:
            with _translating("look at the pull request"):
                found = self._api().get_discussion_details(mirror.repo_id, number, repo_type=mirror.repo_type)
        except MirrorError as exc:
            if exc.error_kind != "not_found":
                raise
            return None

        return Pull(found.num, found.status, found.url)

    def open_pull(self, mirror: Mirror, title: str, description: str) -> Pull:
        """Open a pull request, as a draft that has the head of the main branch."""
        with _translating("open a pull request"):
            made = self._api().create_pull_request(
                mirror.repo_id, title, description=description, repo_type=mirror.repo_type
            )

        return Pull(made.num, made.status, made.url)

    def show_pull(self, mirror: Mirror, pull: Pull) -> Pull:
        """Make a draft an open pull request."""
        with _translating("show the pull request"):
            self._api().change_discussion_status(mirror.repo_id, pull.number, "open", repo_type=mirror.repo_type)

        return replace(pull, status="open")

    def _api(self) -> "HfApi":
        # An empty string would make huggingface_hub look for a token itself; False sends none.
        token = self.tokens.read(self.endpoint)
        with _CLIENT_LOCK:
            _patience().set(self.endpoint.url, self.endpoint.timeout_s, token)
        return _api(self.endpoint.url, token or False)

    def _read_refusal(self, exc: "HfHubHTTPError") -> Visibility:
        status = exc.response.status_code if exc.response is not None else 0
        if status in {404, 405, 501} and not _is_hub(exc):
            return Visibility.UNKNOWN
        if status == 404:  # noqa: PLR2004 - HTTP
            return Visibility.MISSING
        raise _translated("look at the repository", exc)


def _read_files(listed: Iterable[Any]) -> dict[str, HubFile]:
    """Return the files in a listing, which has directories too."""
    return {
        entry.path: HubFile(
            entry.blob_id, entry.lfs.sha256 if entry.lfs else None, entry.lfs.size if entry.lfs else entry.size
        )
        for entry in listed
        if hasattr(entry, "blob_id")
    }


def _small(addition: "CommitOperationAdd") -> "CommitOperationAdd":
    addition._upload_mode = "regular"  # noqa: SLF001 - routed by us, and .gitattributes agrees
    return addition


def _large(pointer: Pointer, addition: "CommitOperationAdd") -> "CommitOperationAdd":
    """Make *addition* one of an object that the Hub has: its bytes may be here no more."""
    addition.upload_info.size = pointer.size
    addition.upload_info.sha256 = bytes.fromhex(pointer.oid)
    addition._upload_mode = "lfs"  # noqa: SLF001 - as in _small
    addition._is_uploaded = True  # noqa: SLF001 - as in _small

    return addition


def _allow_xet() -> None:
    """Let the library use Xet for what is sent from a file; what a reader gives it sends without."""
    from huggingface_hub import constants  # noqa: PLC0415 - 200 ms

    hf_xet()
    constants.HF_HUB_DISABLE_XET = False


@contextlib.contextmanager
def _translating(doing: str) -> Iterator[None]:
    try:
        yield
    except HubsyncError:  # the token cannot be read
        raise
    except Exception as exc:
        cause = _cause_of(exc)
        if isinstance(cause, HubsyncError):
            raise cause from exc
        raise _translated(doing, cause) from exc


def _cause_of(exc: Exception) -> Exception:
    """Return what went wrong with an upload: the library says which one it was, around what was raised."""
    while type(exc) is RuntimeError and isinstance(exc.__cause__, Exception):
        exc = exc.__cause__

    return exc


def _is_hub(exc: Exception) -> bool:
    response = getattr(exc, "response", None)
    return response is not None and ("x-error-code" in response.headers or "x-request-id" in response.headers)


def _translated(doing: str, exc: Exception) -> MirrorError:
    """Turn what the client raised into our error; nothing of its request or headers is kept."""
    response = getattr(exc, "response", None)
    if response is None:
        return read_failure(doing, _words_of(exc))
    said = getattr(exc, "server_message", None) or response.text[:_ANSWER_BYTES]
    # What is no API is an address that the Hub gave for an upload.
    place = "" if _API_PATH.search(response.request.url.path) else "storage: "
    failure = read_failure(doing, f"{place}HTTP {response.status_code} {said}")
    if place and response.status_code == HTTPStatus.BAD_REQUEST:  # so some storages say that it is out of date
        failure.retryable, failure.error_kind, failure.hint = True, "server", ADDRESS_HINT
    if failure.retry_after_s is None and failure.retry_at is None:
        _note_asked_wait(failure, response.headers)

    return failure


def _words_of(exc: Exception) -> str:
    """Return what went wrong in words that the table knows: the client has a class for each way of not getting there."""
    if "Invalid metadata in README.md" in str(exc):  # it asks before it commits
        return f"YAML metadata verification: {exc}"
    if isinstance(exc, OSError) and exc.errno in _LOCAL_ERRNOS:
        return f"this machine: {exc.strerror}: {exc.filename}"
    if "timeout" in type(exc).__name__.lower() or type(exc).__name__ == "TimedOutError":
        return f"timed out: {exc}"
    if isinstance(exc, _NO_ANSWERS) or type(exc).__name__ == "DecodingError":
        return f"server error: an answer that no Hub gives: {type(exc).__name__}: {exc}"

    return f"connection error: {exc}"


def _note_asked_wait(failure: MirrorError, headers: Mapping[str, str]) -> None:
    """Note the wait that *headers* ask for; a limit that still has requests left is not the reason."""
    from huggingface_hub.utils._http import parse_ratelimit_headers  # noqa: PLC0415 - 200 ms

    asked = read_retry_after(headers.get("retry-after", ""))
    failure.retry_after_s, failure.retry_at = asked.seconds, asked.until
    limit = parse_ratelimit_headers(headers)
    if asked == AskedWait() and failure.error_kind == "rate_limited" and limit is not None and limit.remaining == 0:
        failure.retry_after_s = limit.reset_in_seconds


@functools.lru_cache(maxsize=1)
def _patience() -> "Patience":
    """Return how long each Hub is waited for, which the client of this process keeps to: its own default is for ever.

    There is one for all Hubs. One that is replaced is closed, with the requests of other mirrors in it.
    """
    import huggingface_hub  # noqa: PLC0415 - 200 ms
    from huggingface_hub.utils._http import hf_raise_for_status  # noqa: PLC0415 - 200 ms

    from hubsync.mirror.patient import Patience, make_client  # noqa: PLC0415 - 100 ms

    patience = Patience()
    huggingface_hub.set_client_factory(lambda: make_client(patience, hf_raise_for_status))

    return patience


@functools.lru_cache(maxsize=64)
def _api(url: str, token: str | Literal[False]) -> "HfApi":
    import huggingface_hub  # noqa: PLC0415 - 200 ms

    from hubsync import __version__  # noqa: PLC0415 - it is looked up among all that is installed

    if not huggingface_hub.constants.HF_HUB_DISABLE_PROGRESS_BARS:  # as it is in our closed environment
        from huggingface_hub.utils.tqdm import disable_progress_bars  # noqa: PLC0415 - 50 ms, for asyncio

        disable_progress_bars()
    return huggingface_hub.HfApi(endpoint=url, token=token, library_name="hubsync", library_version=__version__)
