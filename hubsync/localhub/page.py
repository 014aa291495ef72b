"""The pages at ``/``: what arrived, for a person with a browser. Plain HTML, no scripts, nothing from elsewhere.

A browser is asked for a token at ``/login`` (as a password, any user name) and sends it from then on; without one,
private repositories are not shown.
"""

import html
from collections.abc import Iterable, Sequence
from datetime import datetime
from importlib.resources import files
from ipaddress import ip_address
from urllib.parse import quote

from msgspec import to_builtins
from starlette.responses import HTMLResponse, RedirectResponse, Response

from hubsync.localhub.calls import Call, JsonResponse
from hubsync.localhub.history import Commit, Ref, list_commits, list_refs
from hubsync.localhub.pulls import find_discussion, list_discussions
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.repos import FOLDERS, Repo, default_branch
from hubsync.localhub.trees import Entry, find_commit, list_entries, read_pointers

_STYLE = (files("hubsync.localhub") / "data" / "page.css").read_text()
_COMMITS_SHOWN = 20
_ENTRIES_SHOWN = 1000
_UNITS = ("B", "KB", "MB", "GB", "TB")
_STEP = 1000


def login(call: Call) -> Response:
    """Ask for a token, and go home with it."""
    call.user()
    return RedirectResponse("/", 303)


def requests(call: Call) -> Response:
    """Show the last requests to whoever sits at this machine."""
    _check_neighbour(call)
    return JsonResponse(to_builtins(call.hub.traffic.requests()))


def faults(call: Call) -> Response:
    """Show the faults in force and how often each was shown, to whoever sits at this machine."""
    _check_neighbour(call)
    counts = [{"fault": active.text, "met": active.met, "shown": active.shown} for active in call.hub.faults.list()]
    return JsonResponse(counts)


def _check_neighbour(call: Call) -> None:
    client = call.request.client
    if client is None or not ip_address(client.host).is_loopback:
        raise RefusedError(403, "Only for clients on the same machine")


def home(call: Call) -> Response:
    """List the repositories."""
    user = call.hub.access.user_of(call.authorization)
    repos = [repo for repo in call.hub.repos.list() if user or not repo.private]
    sections = [
        f"<h2>{folder.capitalize()}</h2>{_table(('Repository', 'Last commit', ''), map(_repo_row, some))}"
        for repo_type, folder in FOLDERS.items()
        if (some := [repo for repo in repos if repo.name.repo_type == repo_type])
    ]
    closed = 'Private repositories show after <a href="/login">login</a>, with the token as the password.'
    known = f"You are <b>{_text(user.name)}</b>." if user else closed
    how = f"<p>Nothing to see yet.</p><pre>export HF_ENDPOINT={_text(call.base_url)}</pre>"

    return _page("Local Hub", "".join([f"<h1>Local Hub</h1><p>{known}</p>", *(sections or [how])]))


def repo_page(call: Call) -> Response:
    """Show a directory of a repository, its last commits and its refs."""
    repo = call.readable()
    revision, directory = call.param("revision") or default_branch(repo.git_dir), call.param("path").strip("/")
    commit = find_commit(repo.git_dir, revision)
    entries = list_entries(repo.git_dir, commit, directory)
    shown = read_pointers(repo.git_dir, entries[:_ENTRIES_SHOWN])
    shown.sort(key=lambda entry: (not entry.is_directory, entry.path))
    left_out = f"<p>{len(entries) - len(shown):,} more are not shown.</p>" if len(entries) > len(shown) else ""
    body = [
        _heading(repo, revision),
        f"<h2>Files</h2>{_trail(repo, revision, directory)}",
        _table(("Name", "Size", "Content"), (_entry_row(repo, revision, entry) for entry in shown)),
        left_out,
    ]
    if not directory:
        commits = list_commits(repo.git_dir, commit, limit=_COMMITS_SHOWN + 1)
        body += ["<h2>Commits</h2>", _commit_table(repo, commits[:_COMMITS_SHOWN])]
        if len(commits) > _COMMITS_SHOWN:
            body.append(f'<p><a href="{_href(repo, "commits", revision)}">All commits</a></p>')
        body += [_refs(repo, kind, list_refs(repo.git_dir, f"refs/{kind}/")) for kind in ("heads", "tags")]
        body.append(_discussions(repo))
        body.append(f"<h2>Clone</h2><pre>git clone {_text(call.base_url)}/{_text(repo.name.web_path)}</pre>")

    return _page(f"{repo.name.repo_id}", "".join(body))


def commits_page(call: Call) -> Response:
    """Show a history."""
    repo, revision = call.readable(), call.param("revision")
    commits = list_commits(repo.git_dir, find_commit(repo.git_dir, revision))

    return _page(
        f"{repo.name.repo_id}: commits", f"{_heading(repo, revision)}<h2>Commits</h2>{_commit_table(repo, commits)}"
    )


def commit_page(call: Call) -> Response:
    """Show one commit: its words, and the way to its files."""
    repo, revision = call.readable(), call.param("revision")
    made = list_commits(repo.git_dir, find_commit(repo.git_dir, revision), limit=1)[0]
    facts = f"<p><code>{made.oid}</code> by {_text(made.author)}, {_time(made.made_at)}</p>"
    way = f'<p><a href="{_href(repo, "tree", made.oid)}">Files at this commit</a></p>'

    return _page(
        f"{repo.name.repo_id}: {made.title}", f"{_heading(repo, revision)}{facts}<pre>{_text(made.message)}</pre>{way}"
    )


def discussion_page(call: Call) -> Response:
    """Show a discussion or pull request: what was said, and the way to its files."""
    repo, num = call.readable(), call.param("num")
    if not num.isdecimal():
        raise RefusedError(404, "Discussion not found")
    one = find_discussion(repo, int(num))
    said = "".join(
        f"<p><small>{_text(event.author)}</small><pre>{_text(event.data['latest']['raw'])}</pre>"
        for event in one.events
        if event.type == "comment"
    )
    way = f'<p><a href="{_href(repo, "tree", one.ref)}">Files of {one.ref}</a></p>' if one.is_pull else ""
    badge = f"<span class=badge>{_text(one.status)}</span>"
    title = f"<h2>{_text(one.title)} #{one.num} {badge}</h2><p><small>{_text(one.author)}</small></p>"

    return _page(f"{repo.name.repo_id} #{one.num}", f"{_heading(repo, default_branch(repo.git_dir))}{title}{said}{way}")


def _page(title: str, body: str) -> Response:
    return HTMLResponse(
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width,initial-scale=1"><meta name=color-scheme content="light dark">'
        f"<title>{_text(title)}</title><style>{_STYLE}</style>"
        f"<main>{body}</main></html>",
        headers={"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "Cache-Control": "no-store"},
    )


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    kinds = [f' class="{name.lower()}"' if name else "" for name in head]
    heads = "".join(f"<th{kind}>{name}" for kind, name in zip(kinds, head, strict=True))
    lines = "".join("<tr>" + "".join(f"<td{kind}>{cell}" for kind, cell in zip(kinds, row, strict=True)) for row in rows)

    return f"<div class=wide><table><thead><tr>{heads}<tbody>{lines}</table></div>"


def _repo_row(repo: Repo) -> Sequence[str]:
    newest = list_commits(repo.git_dir, default_branch(repo.git_dir), limit=1)
    said = f"{_text(newest[0].title)} <small>{_time(newest[0].made_at)}</small>" if newest else ""
    private = "<span class=badge>private</span>" if repo.private else ""

    return (f'<a href="/{repo.name.web_path}">{_text(repo.name.repo_id)}</a>', said, private)


def _heading(repo: Repo, revision: str) -> str:
    private = " <span class=badge>private</span>" if repo.private else ""
    kind = f"<span class=badge>{repo.name.repo_type}</span>"
    at = f"<p>at <code>{_text(revision)}</code></p>" if revision != default_branch(repo.git_dir) else ""

    return (
        f'<p><a href="/">Local Hub</a></p>'
        f'<h1><a href="/{repo.name.web_path}">{_text(repo.name.repo_id)}</a> {kind}{private}</h1>{at}'
    )


def _trail(repo: Repo, revision: str, directory: str) -> str:
    if not directory:
        return ""
    parts = directory.split("/")
    links = [f'<a href="{_href(repo, "tree", revision)}">{_text(repo.name.repo_id.rpartition("/")[2])}</a>']
    links += [
        f'<a href="{_href(repo, "tree", revision, "/".join(parts[: end + 1]))}">{_text(part)}</a>'
        for end, part in enumerate(parts)
    ]

    return f"<p>{' / '.join(links)}</p>"


def _entry_row(repo: Repo, revision: str, entry: Entry) -> Sequence[str]:
    name = _text(entry.path.rpartition("/")[2])
    if entry.is_directory:
        return (f'<a href="{_href(repo, "tree", revision, entry.path)}">{name}/</a>', "", "")
    link = f'<a href="{_href(repo, "resolve", revision, entry.path)}">{name}</a>'
    oid = entry.pointer.oid if entry.pointer else entry.blob
    badge = "<span class=badge>LFS</span> " if entry.pointer else ""

    return (link, _size(entry.size), f'{badge}<code title="{oid}">{oid[:12]}</code>')


def _commit_table(repo: Repo, commits: Sequence[Commit]) -> str:
    rows = (
        (
            f"{_text(made.title)}<br><small>{_text(made.author)}, {_time(made.made_at)}</small>",
            f'<a href="{_href(repo, "commit", made.oid)}"><code>{made.oid[:8]}</code></a>',
        )
        for made in commits
    )
    return _table(("Message", "Commit"), rows)


def _discussions(repo: Repo) -> str:
    rows = [
        (
            f'<a href="/{repo.name.web_path}/discussions/{one.num}">{_text(one.title)}</a> <small>#{one.num}</small>',
            f"<span class=badge>{_text(one.status)}</span>",
        )
        for one in reversed(list_discussions(repo))
    ]
    return f"<h2>Pull requests and discussions</h2>{_table(('Title', 'Status'), rows)}" if rows else ""


def _refs(repo: Repo, kind: str, refs: Sequence[Ref]) -> str:
    if not refs:
        return ""
    links = (f'<a href="{_href(repo, "tree", ref.name)}">{_text(ref.name)}</a>' for ref in refs)

    return f"<h2>{'Branches' if kind == 'heads' else 'Tags'}</h2><p>{', '.join(links)}</p>"


def _href(repo: Repo, what: str, revision: str, path: str = "") -> str:
    below = "/" + quote(path, errors="surrogateescape") if path else ""
    return f"/{repo.name.web_path}/{what}/{quote(revision, safe='', errors='surrogateescape')}{below}"


def _text(words: str) -> str:
    return html.escape(words.encode(errors="replace").decode())


def _time(moment: datetime) -> str:
    return f'<time datetime="{moment.isoformat()}">{moment:%Y-%m-%d %H:%M} UTC</time>'


def _size(size: float) -> str:
    for unit in _UNITS:
        if size < _STEP or unit == _UNITS[-1]:
            break
        size /= _STEP

    return f"{size:.0f}&nbsp;{unit}" if unit == "B" else f"{size:.1f}&nbsp;{unit}"
