"""Decides who may do what: any known token reads and writes everything, no token reads what is public.

It also signs the addresses of LFS objects, so that the storage host never sees a token, as the Hub's does not.
"""

import base64
import binascii
import hashlib
import hmac
import secrets
import time
from collections.abc import Mapping

from msgspec import Struct

from hubsync.localhub.refusals import REPO_NOT_FOUND, RefusedError
from hubsync.localhub.repos import Repo, RepoName, Repos

_HREF_S = 3600  # as long as the Hub's own signed addresses live
_CHALLENGE = {"WWW-Authenticate": 'Basic realm="Hub", charset="UTF-8"', "LFS-Authenticate": 'Basic realm="Hub"'}


class User(Struct, frozen=True):
    """Who asks."""

    name: str

    @property
    def email(self) -> str:
        """The address that stands in their commits."""
        return f"{self.name}@users.noreply.localhub"


class Access:
    """Knows the tokens, and each token's user."""

    def __init__(self, users: Mapping[str, str]) -> None:
        self._users = dict(users)

    def admit(self, token: str, user: str) -> None:
        """Let *token* in, from now on."""
        self._users[token] = user

    def revoke(self, token: str) -> None:
        """Let *token* in no longer."""
        self._users.pop(token, None)

    def user_of(self, authorization: str | None) -> User | None:
        """Return who sent this ``Authorization`` header; ``None`` without one; raises RefusedError for a bad token."""
        if not authorization:
            return None
        name = self._users.get(_token_in(authorization))
        if name is None:
            raise RefusedError(401, "Invalid credentials in Authorization header", headers=_CHALLENGE)

        return User(name)

    def known_user(self, authorization: str | None) -> User:
        """Return who sent this header; raises RefusedError if nobody did."""
        if user := self.user_of(authorization):
            return user

        raise RefusedError(401, "Invalid username or password.", headers=_CHALLENGE)

    def readable(self, repos: Repos, name: RepoName, authorization: str | None) -> Repo:
        """Return the repository, if the sender may read it; a private one looks like none to the others."""
        user = self.user_of(authorization)
        try:
            repo = repos.find(name)
        except RefusedError:
            if user:
                raise
            raise _closed() from None
        if repo.private and not user:
            raise _closed()

        return repo

    def writable(self, repos: Repos, name: RepoName, authorization: str | None) -> Repo:
        """Return the repository, if the sender may write it."""
        self.known_user(authorization)
        return repos.find(name)


def _closed() -> RefusedError:
    return RefusedError(401, "Invalid username or password.", code=REPO_NOT_FOUND, headers=_CHALLENGE)


def _token_in(authorization: str) -> str:
    scheme, _, value = authorization.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except (binascii.Error, UnicodeDecodeError):
        return ""

    return password or user  # a token may stand in either place; the user's name says nothing


class Signer:
    """Makes addresses that carry their own permission, for one method, object and hour."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(32)

    def sign(self, *facts: str) -> str:
        """Return the query that grants *facts* for an hour."""
        expires = str(int(time.time()) + _HREF_S)
        return f"expires={expires}&signature={self._signature(expires, *facts)}"

    def check(self, query: Mapping[str, str], *facts: str) -> None:
        """Raise RefusedError unless *query* grants *facts* now."""
        expires = query.get("expires", "")
        if not hmac.compare_digest(query.get("signature", ""), self._signature(expires, *facts)):
            raise RefusedError(403, "SignatureDoesNotMatch")
        if int(expires) < time.time():
            raise RefusedError(403, "Request has expired")

    def mark(self, *facts: str) -> str:
        """Return a short name for *facts*, another one in each run of the Hub."""
        return self._signature("mark", *facts)[:16]

    def _signature(self, *facts: str) -> str:
        return hmac.new(self._key, "\0".join(facts).encode(), hashlib.sha256).hexdigest()
