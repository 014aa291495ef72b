"""The Hub's routes. Paths are matched as they were sent, still encoded (see ``traffic.TrafficMiddleware``)."""

from collections.abc import Callable, Iterator, Mapping

from starlette.applications import Starlette
from starlette.convertors import StringConvertor, register_url_convertor
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from hubsync.errors import HubsyncError
from hubsync.localhub import api, lfs, multipart, page, pulls_api, resolve, xet
from hubsync.localhub.calls import Call, Hub, answer_failure, answer_nobody, answer_refusal, threaded
from hubsync.localhub.faulty import FaultMiddleware
from hubsync.localhub.githttp import GitHttp
from hubsync.localhub.limiting import LimitMiddleware
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.traffic import TrafficMiddleware

Answer = Callable[[Call], Response]

_API_ROUTES: tuple[tuple[str, str, Answer], ...] = (
    ("GET", "/api/whoami-v2", api.whoami),
    ("POST", "/api/repos/create", api.create_repo),
    ("DELETE", "/api/repos/delete", api.delete_repo),
    ("POST", "/api/repos/move", api.move_repo),
    ("POST", "/api/validate-yaml", api.validate_yaml),
    ("POST", "/api/complete_multipart", multipart.complete),
    ("GET", "/api/{folder:folder}", api.list_repos),
)
_REPO_ROUTES: tuple[tuple[str, str, Answer], ...] = (  # below /api/{folder}/{namespace}/{name}
    ("GET", "", api.repo_info),
    ("PUT", "/settings", api.update_settings),
    ("GET", "/revision/{revision}", api.repo_info),
    ("GET", "/tree/{revision}", api.list_tree),
    ("GET", "/tree/{revision}/{path:path}", api.list_tree),
    ("POST", "/paths-info/{revision}", api.paths_info),
    ("GET", "/refs", api.refs),
    ("GET", "/commits/{revision}", api.commits),
    ("POST", "/preupload/{revision}", api.preupload),
    ("POST", "/branch/{revision}", api.create_branch),
    ("DELETE", "/branch/{revision}", api.delete_branch),
    ("POST", "/tag/{revision}", api.create_tag),
    ("DELETE", "/tag/{revision}", api.delete_tag),
    ("POST", "/super-squash/{revision}", api.super_squash),
    ("GET", "/discussions", pulls_api.discussions),
    ("POST", "/discussions", pulls_api.create),
    ("GET", "/discussions/{num}", pulls_api.details),
    ("POST", "/discussions/{num}/comment", pulls_api.comment),
    ("POST", "/discussions/{num}/status", pulls_api.change_status),
    ("POST", "/discussions/{num}/title", pulls_api.change_title),
    ("POST", "/discussions/{num}/merge", pulls_api.merge_pull),
    ("GET", "/xet-write-token/{revision}", xet.write_token),
    ("GET", "/lfs-files", api.list_lfs_files),
    ("POST", "/lfs-files/batch", api.delete_lfs_files),
)
_WEB_ROUTES: tuple[tuple[str, str, Answer], ...] = (  # below [/{folder}]/{namespace}/{name}
    ("POST", "/info/lfs/objects/batch", lfs.batch),
    ("POST", "/info/lfs/verify", lfs.verify),
    ("POST", "/info/lfs/locks/verify", lfs.no_locks),
    ("GET", "/resolve/{revision}/{path:path}", resolve.resolve),
    ("GET", "/raw/{revision}/{path:path}", resolve.raw),
    ("GET", "", page.repo_page),
    ("GET", "/tree/{revision}", page.repo_page),
    ("GET", "/tree/{revision}/{path:path}", page.repo_page),
    ("GET", "/commits/{revision}", page.commits_page),
    ("GET", "/commit/{revision}", page.commit_page),
    ("GET", "/discussions/{num}", page.discussion_page),
)
_GIT_ROUTES = (("GET", "/info/refs"), ("POST", "/git-upload-pack"), ("POST", "/git-receive-pack"))
_REPO = "/{folder:folder}/{namespace}/{name}"
_WEB_REPOS = (_REPO, "/{namespace}/{name}")


class _FolderConvertor(StringConvertor):
    """Matches a repository's type, as it stands in paths."""

    regex = "models|datasets|spaces"


register_url_convertor("folder", _FolderConvertor())


def build_app(hub: Hub, git_extra: Mapping[str, str]) -> Starlette:
    """Return the Hub as an ASGI application; *git_extra* is what ``git http-backend`` is told besides the request."""
    app = Starlette(
        routes=list(_routes(GitHttp(git_extra))),
        middleware=[
            Middleware(TrafficMiddleware, traffic=hub.traffic),
            Middleware(FaultMiddleware, faults=hub.faults),
            Middleware(LimitMiddleware, hub=hub),
        ],
        exception_handlers={
            ClientDisconnect: answer_nobody,
            HTTPException: _answer_unrouted,
            HubsyncError: answer_failure,
            OSError: answer_failure,
            RefusedError: answer_refusal,
        },
    )
    app.state.hub = hub

    return app


def _routes(git_http: GitHttp) -> Iterator[BaseRoute]:
    for method, path, answer in _API_ROUTES:
        yield Route(path, threaded(answer), methods=[method])
    for method, path, answer in _REPO_ROUTES:
        yield Route(f"/api{_REPO}{path}", threaded(answer), methods=[method])
    yield Route(f"/api{_REPO}/commit/{{revision}}", api.commit, methods=["POST"])
    yield Route("/api/{path:path}", threaded(api.not_found), methods=["GET", "POST", "PUT", "DELETE"])
    yield Route(f"/_lfs{_REPO}/{{oid}}", lfs.put_object, methods=["PUT"])
    yield Route(f"/_lfs{_REPO}/{{oid}}", threaded(lfs.get_object), methods=["GET"])
    yield Route(f"/_xet{_REPO}/{{life}}/v1/xorbs/default/{{xorb}}", xet.put_xorb, methods=["POST"])
    yield Route(f"/_xet{_REPO}/{{life}}/v1/shards", xet.put_shard, methods=["POST"])
    yield Route(f"/_xet{_REPO}/{{life}}/v1/chunks/{{prefix}}/{{chunk}}", threaded(xet.find_chunk), methods=["GET"])
    yield Route("/_requests", threaded(page.requests), methods=["GET"])
    yield Route("/_faults", threaded(page.faults), methods=["GET"])
    yield Route("/login", threaded(page.login), methods=["GET"])
    yield Route("/", threaded(page.home), methods=["GET"])
    for repo in _WEB_REPOS:
        for method, path in _GIT_ROUTES:
            yield Route(repo + path, git_http, methods=[method])
        for method, path, answer in _WEB_ROUTES:
            yield Route(repo + path, threaded(answer), methods=[method])


def _answer_unrouted(request: Request, exc: Exception) -> Response:
    """Answer what no route takes in the Hub's form."""
    status = exc.status_code if isinstance(exc, HTTPException) else 500
    words = "Method not allowed" if status == 405 else "Sorry, we can't find the page you are looking for."  # noqa: PLR2004 - HTTP

    return answer_refusal(request, RefusedError(status, words))
