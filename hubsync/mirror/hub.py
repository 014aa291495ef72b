"""Owns huggingface_hub: whether a repository exists, whether it is private, and how to make it.

A server without the Hub's API (plain git and LFS) is no error here: then nothing is known, and git will tell.
"""

import functools
import json
import threading
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

from hubsync import __version__
from hubsync.config.model import Endpoint, Mirror
from hubsync.errors import MirrorError
from hubsync.mirror.failures import read_failure
from hubsync.mirror.token import Tokens

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

_CLIENT_LOCK = threading.Lock()
_ANSWER_BYTES = 200  # of a body that is not the Hub's


class Visibility(Enum):
    """What the Hub says of a repository; ``UNKNOWN`` if the server is no Hub."""

    PRIVATE = "private"
    PUBLIC = "public"
    MISSING = "missing"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Hub:
    """The API of one endpoint, as far as mirrors need it."""

    endpoint: Endpoint
    tokens: Tokens

    def look(self, mirror: Mirror) -> Visibility:
        """Return what is at the mirror's address.

        Raises:
            MirrorError: the Hub refuses the token, or cannot be reached.
        """
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError  # noqa: PLC0415 - 200 ms

        try:
            # Without a timeout of its own this call waits for ever, whatever the client's is.
            info = self._api().repo_info(mirror.repo_id, repo_type=mirror.repo_type, timeout=self.endpoint.timeout_s)
        except RepositoryNotFoundError:
            return Visibility.MISSING
        except HfHubHTTPError as exc:
            return self._read_refusal(exc)
        except (json.JSONDecodeError, KeyError, TypeError, ValueError):
            return Visibility.UNKNOWN  # something answered, but not as a Hub does
        except Exception as exc:
            raise _translated("look at the repository", exc) from exc

        return Visibility.PRIVATE if info.private else Visibility.PUBLIC

    def create(self, mirror: Mirror) -> bool:
        """Create the mirror's repository; return False if the server has no such API."""
        from huggingface_hub.errors import HfHubHTTPError  # noqa: PLC0415 - 200 ms

        sdk = "static" if mirror.repo_type == "space" else None
        try:
            self._api().create_repo(
                mirror.repo_id, repo_type=mirror.repo_type, private=mirror.private, exist_ok=True, space_sdk=sdk
            )
        except HfHubHTTPError as exc:
            if exc.response is not None and exc.response.status_code in {404, 405, 501} and not _is_hub(exc):
                return False
            raise _translated("create the repository", exc) from exc
        except Exception as exc:
            raise _translated("create the repository", exc) from exc

        return True

    def _api(self) -> "HfApi":
        # An empty string would make huggingface_hub look for a token itself; False sends none.
        token = self.tokens.read(self.endpoint)
        return _api(self.endpoint.url, self.endpoint.timeout_s, token or False)

    def _read_refusal(self, exc: "HfHubHTTPError") -> Visibility:
        status = exc.response.status_code if exc.response is not None else 0
        if status in {404, 405, 501} and not _is_hub(exc):
            return Visibility.UNKNOWN
        if status == 404:  # noqa: PLR2004 - HTTP
            return Visibility.MISSING
        raise _translated("look at the repository", exc)


def _is_hub(exc: Exception) -> bool:
    response = getattr(exc, "response", None)
    return response is not None and ("x-error-code" in response.headers or "x-request-id" in response.headers)


def _translated(doing: str, exc: Exception) -> MirrorError:
    """Turn what the client raised into our error; nothing of its request or headers is kept."""
    response = getattr(exc, "response", None)
    if response is None:
        # Words that the table knows: the client has a class for each way of not reaching a server.
        words = "timed out" if "timeout" in type(exc).__name__.lower() else "connection error"
        return read_failure(doing, f"{words}: {exc}")
    said = getattr(exc, "server_message", None) or response.text[:_ANSWER_BYTES]
    failure = read_failure(doing, f"HTTP {response.status_code} {said}")
    if failure.retry_after_s is None and response.headers.get("retry-after", "").isdigit():
        failure.retry_after_s = float(response.headers["retry-after"])

    return failure


@functools.lru_cache(maxsize=1)
def _set_patience(timeout_s: float) -> None:
    """Make the client wait *timeout_s* at most: its own default waits for ever.

    There is one for the process, and the newest endpoint sets its patience. A client that is replaced is closed, with
    the requests of other mirrors in it, so that one which suits is kept. On a redirect to another host it drops the
    token by itself.
    """
    import httpx2  # noqa: PLC0415 - 200 ms
    import huggingface_hub  # noqa: PLC0415 - 200 ms

    huggingface_hub.set_client_factory(lambda: httpx2.Client(timeout=timeout_s, follow_redirects=True))


@functools.lru_cache(maxsize=64)
def _api(url: str, timeout_s: float, token: str | Literal[False]) -> "HfApi":
    import huggingface_hub  # noqa: PLC0415 - 200 ms

    with _CLIENT_LOCK:
        _set_patience(timeout_s)
    return huggingface_hub.HfApi(endpoint=url, token=token, library_name="hubsync", library_version=__version__)
