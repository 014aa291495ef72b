"""What the Hub answers when it does not do what was asked: status, ``X-Error-Code`` and words.

``huggingface_hub`` chooses its exception by the code (``utils/_http.py``, ``hf_raise_for_status``).
"""

from collections.abc import Mapping

from hubsync.errors import HubsyncError

REPO_NOT_FOUND = "RepoNotFound"
REVISION_NOT_FOUND = "RevisionNotFound"
ENTRY_NOT_FOUND = "EntryNotFound"


class RefusedError(HubsyncError):
    """A request is answered with an HTTP error.

    Attributes:
        status: the HTTP status.
        code: the Hub's ``X-Error-Code``; empty if it has none.
        headers: further headers of the answer.
        body: further members of the JSON answer.
    """

    error_kind = "refused"

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str = "",
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.headers = dict(headers or {})
        self.body = dict(body or {})


class MovedError(RefusedError):
    """A repository has another name; whoever knows the request says where to ask again."""

    def __init__(self, old: str, new: str) -> None:
        super().__init__(307, f"Repository has moved to {new}")
        self.old = old
        self.new = new

    def direct(self, path: str, query: str) -> None:
        """Lead a request for *path* to the repository's new name."""
        target = path.replace(f"/{self.old}", f"/{self.new}", 1)
        self.headers["Location"] = f"{target}?{query}" if query else target


def repo_not_found() -> RefusedError:
    """Return the answer to a known user who asks for a repository that is not there."""
    return RefusedError(404, "Repository not found", code=REPO_NOT_FOUND)


def revision_not_found(revision: str) -> RefusedError:
    """Return the answer for an unknown branch, tag or commit."""
    return RefusedError(404, f"Invalid rev id: {revision}", code=REVISION_NOT_FOUND)


def entry_not_found(commit: str = "") -> RefusedError:
    """Return the answer for a path that *commit* does not hold."""
    headers = {"X-Repo-Commit": commit} if commit else {}
    return RefusedError(404, "Entry not found", code=ENTRY_NOT_FOUND, headers=headers)
