"""The local Hub, driven by unmodified git, git-lfs and huggingface_hub."""

import gzip
import hashlib
import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import CommitOperationAdd, HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError
from support.running import digests, download

from hubsync.localhub import LocalHub

LFS = [
    option
    for pair in (
        "filter.lfs.smudge=git-lfs smudge -- %f",
        "filter.lfs.process=git-lfs filter-process",
        "filter.lfs.clean=git-lfs clean -- %f",
        "filter.lfs.required=true",
        "user.name=tester",
        "user.email=tester@localhost",
        "lfs.locksverify=false",
    )
    for option in ("-c", pair)
]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalHub]:
    with LocalHub(tmp_path_factory.mktemp("hub"), port=0) as running:
        yield running


@pytest.fixture
def repo(api: HfApi, request: pytest.FixtureRequest) -> str:
    name = f"acme/{request.node.name.replace('[', '-').replace(']', '').replace('_', '-')[:80].strip('-.')}"
    api.create_repo(name, private=True)
    return name


def git(*args: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    environment = {
        "PATH": os.environ["PATH"], "HOME": "/nonexistent", "GIT_CONFIG_GLOBAL": "/dev/null", "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C",
    }  # fmt: skip
    return subprocess.run(["git", *LFS, *args], cwd=cwd, env=environment, capture_output=True, text=True, check=False)


def clone(hub: LocalHub, repo: str, goal: Path) -> Path:
    done = git("clone", "-q", hub.url.replace("://", f"://x:{hub.token}@") + f"/{repo}", goal)
    assert 0 == done.returncode, done.stderr
    return goal


def commit_and_push(tree: Path) -> subprocess.CompletedProcess[str]:
    git("add", "-A", cwd=tree)
    git("commit", "-q", "-m", "change", cwd=tree)
    git("lfs", "push", "origin", "main", cwd=tree)
    return git("push", "-q", "origin", "main", cwd=tree)


def test_a_new_repository_has_the_hubs_initial_commit(api: HfApi, repo: str) -> None:
    """It holds the Hub's own .gitattributes, byte for byte, and is as private as asked for."""
    info = api.repo_info(repo, files_metadata=True)

    assert info.private
    assert ["initial commit"] == [commit.title for commit in api.list_repo_commits(repo)]
    assert {".gitattributes": "a6344aac8c09253b3b630fb776ae94478aa0275b"} == {
        item.rfilename: item.blob_id for item in info.siblings or ()
    }


def test_creating_twice_is_a_conflict_unless_it_may_exist(api: HfApi, repo: str) -> None:
    """As on the Hub: 409, which the client turns into success with exist_ok."""
    assert api.create_repo(repo, exist_ok=True).repo_id == repo
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(repo)


def test_a_private_repository_is_closed_without_a_token(hub: LocalHub, repo: str, tmp_path: Path) -> None:
    """Neither the API, nor git, nor a download tells an anonymous caller that it exists."""
    with pytest.raises(RepositoryNotFoundError):
        HfApi(endpoint=hub.url, token=False).repo_info(repo)
    with pytest.raises(HfHubHTTPError):
        HfApi(endpoint=hub.url, token="hf_wrongwrongwrong").whoami()
    assert 0 != git("clone", "-q", f"{hub.url}/{repo}", tmp_path / "clone").returncode


def test_git_and_git_lfs_push_and_clone(hub: LocalHub, repo: str, tmp_path: Path) -> None:
    """A large object and a pack of more than a megabyte (sent in chunks) come back byte-equal in another clone."""
    tree = clone(hub, repo, tmp_path / "one")
    (tree / "model.safetensors").write_bytes(os.urandom(3_000_000))
    for number in range(40):
        (tree / f"text{number}.txt").write_text(os.urandom(20_000).hex())
    (tree / 'na me\n"x".txt').write_text("odd")

    assert 0 == commit_and_push(tree).returncode

    again = clone(hub, repo, tmp_path / "two")
    assert tree.joinpath("model.safetensors").read_bytes() == again.joinpath("model.safetensors").read_bytes()
    assert (again / 'na me\n"x".txt').read_text() == "odd"


def test_huggingface_hub_uploads_and_downloads(hub: LocalHub, api: HfApi, repo: str, tmp_path: Path) -> None:
    """upload_folder, create_commit, tree, paths-info and snapshot_download agree, also for odd names."""
    data = tmp_path / "data"
    (data / "sub dir").mkdir(parents=True)
    (data / "sub dir" / "a'b &c.txt").write_text("text")
    (data / "weights.bin").write_bytes(os.urandom(100_000))
    api.upload_folder(repo_id=repo, folder_path=data)
    api.create_commit(repo, [CommitOperationAdd("größe.json", b"{}")], commit_message="one more")

    wanted = {**digests(data), "größe.json": hashlib.sha256(b"{}").hexdigest()}
    assert wanted == download(hub, repo, tmp_path / "copy")
    (info,) = api.get_paths_info(repo, ["weights.bin"])
    assert wanted["weights.bin"] == info.lfs.sha256
    assert {*wanted, ".gitattributes"} == {
        item.path for item in api.list_repo_tree(repo, recursive=True) if hasattr(item, "blob_id")
    }


def test_a_stale_parent_is_refused(api: HfApi, repo: str) -> None:
    """A commit on a head that moved meanwhile fails with 412, and changes nothing."""
    stale = api.repo_info(repo).sha
    api.create_commit(repo, [CommitOperationAdd("a.txt", b"a")], commit_message="first")

    with pytest.raises(HfHubHTTPError, match="412"):
        api.create_commit(repo, [CommitOperationAdd("b.txt", b"b")], commit_message="second", parent_commit=stale)
    assert not api.file_exists(repo, "b.txt")


def test_branches_tags_and_squash(api: HfApi, repo: str) -> None:
    """Revisions are made, listed, read, removed; a squash leaves one commit with the same files."""
    api.create_commit(repo, [CommitOperationAdd("a.txt", b"a")], commit_message="a")
    api.create_branch(repo, branch="dev")
    api.create_tag(repo, tag="v1")
    refs = api.list_repo_refs(repo)

    assert {"main", "dev"} == {branch.name for branch in refs.branches}
    assert ["v1"] == [tag.name for tag in refs.tags]
    assert api.file_exists(repo, "a.txt", revision="v1")
    api.delete_branch(repo, branch="dev")
    with pytest.raises(RevisionNotFoundError):
        api.repo_info(repo, revision="dev")
    api.super_squash_history(repo)
    assert 1 == len(api.list_repo_commits(repo))
    assert api.file_exists(repo, "a.txt")


def test_a_part_of_a_file_can_be_asked_for(hub: LocalHub, api: HfApi, repo: str) -> None:
    """A Range is answered with 206 and just those bytes."""
    content = bytes(range(256)) * 100
    api.upload_file(path_or_fileobj=content, path_in_repo="w.bin", repo_id=repo)
    headers = {"Authorization": f"Bearer {hub.token}", "Range": "bytes=100-199"}
    with urllib.request.urlopen(urllib.request.Request(f"{hub.url}/{repo}/resolve/main/w.bin", headers=headers)) as answer:
        assert (206, content[100:200]) == (answer.status, answer.read())


def test_one_file_is_downloaded_with_its_identity(hub: LocalHub, api: HfApi, repo: str, tmp_path: Path) -> None:
    """hf_hub_download gets an object through the Hub's redirect and its headers."""
    content = os.urandom(50_000)
    api.upload_file(path_or_fileobj=content, path_in_repo="w.safetensors", repo_id=repo)

    got = hf_hub_download(repo, "w.safetensors", endpoint=hub.url, token=hub.token, cache_dir=tmp_path)

    assert content == Path(got).read_bytes()


def test_a_long_listing_comes_in_pages(api: HfApi, repo: str) -> None:
    """More than a thousand paths are followed from page to page."""
    files = [CommitOperationAdd(f"d/{number}.txt", str(number).encode()) for number in range(1100)]
    api.create_commit(repo, files, commit_message="many")

    assert 1100 == sum(1 for _ in api.list_repo_tree(repo, "d"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("big.txt", b"x" * (11 << 20), "contains files larger than 10 MiB"),
        ("small.dat", b"\0binary", "contains binary files"),
        ("README.md", b"---\nlicense: [unclosed\n---\n", "YAML metadata verification"),
        (
            "lost.safetensors",
            b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 5\n",
            "LFS pointer pointed to a file that does not exist",
        ),
    ],
    ids=["large", "binary", "card", "pointer"],
)
def test_what_the_hub_refuses_is_refused(
    hub: LocalHub, repo: str, tmp_path: Path, name: str, content: bytes, words: str
) -> None:
    """A push that the Hub's hook refuses is refused here, in the Hub's words, and nothing of it stays."""
    tree = clone(hub, repo, tmp_path / "tree")
    (tree / name).write_bytes(content)
    if name.startswith("lost"):
        (tree / ".gitattributes").write_text("")
    git("add", "-A", cwd=tree)
    git("commit", "-q", "-m", "refuse me", cwd=tree)

    done = git("-c", "core.hooksPath=/dev/null", "push", "-q", "origin", "main", cwd=tree)

    assert 0 != done.returncode
    assert words in done.stderr
    assert "pre-receive hook declined" in done.stderr
    assert name not in [item.rfilename for item in HfApi(endpoint=hub.url, token=hub.token).repo_info(repo).siblings]


def test_wrong_bytes_are_not_taken(hub: LocalHub, repo: str) -> None:
    """An upload whose SHA-256 is not its oid is refused, and the object stays missing."""
    oid = hashlib.sha256(b"right").hexdigest()
    asked = f'{{"operation": "upload", "transfers": ["basic"], "objects": [{{"oid": "{oid}", "size": 5}}]}}'.encode()
    headers = {"Authorization": f"Bearer {hub.token}", "Content-Type": "application/vnd.git-lfs+json"}
    batch = f"{hub.url}/{repo}.git/info/lfs/objects/batch"
    with urllib.request.urlopen(urllib.request.Request(batch, asked, headers)) as answer:
        upload = json.load(answer)["objects"][0]["actions"]["upload"]

    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(urllib.request.Request(upload["href"], b"wrong", upload.get("header", {}), method="PUT"))
    with urllib.request.urlopen(urllib.request.Request(batch, asked, headers)) as answer:
        assert b"upload" in answer.read()


def test_a_compressed_request_is_understood(hub: LocalHub, repo: str) -> None:
    """A large negotiation is compressed by git; the Hub unpacks them for git http-backend."""
    request = b"0014command=ls-refs\n0000"
    headers = {
        "Authorization": f"Bearer {hub.token}", "Content-Encoding": "gzip", "Git-Protocol": "version=2",
        "Content-Type": "application/x-git-upload-pack-request",
    }  # fmt: skip
    url = f"{hub.url}/{repo}.git/git-upload-pack"
    with urllib.request.urlopen(urllib.request.Request(url, gzip.compress(request), headers)) as answer:
        assert b"refs/heads/main" in answer.read()


def test_the_page_shows_what_arrived(hub: LocalHub, api: HfApi) -> None:
    """The page lists repositories; a repository's own page its files and commits, with everything escaped."""
    api.create_repo("acme/shown", private=False)
    api.create_commit("acme/shown", [CommitOperationAdd("a<b>.txt", b"a")], commit_message="say <hello>")
    with urllib.request.urlopen(hub.url) as answer:
        assert "acme/shown" in answer.read().decode()
    with urllib.request.urlopen(f"{hub.url}/acme/shown") as answer:
        page = answer.read().decode()

    assert "a&lt;b&gt;.txt" in page
    assert "say &lt;hello&gt;" in page
    assert "<hello>" not in page


def test_a_deleted_repository_is_gone(api: HfApi, repo: str) -> None:
    """Deleting removes it; asking again gets the Hub's own answer."""
    api.delete_repo(repo)
    with pytest.raises(RepositoryNotFoundError):
        api.repo_info(repo)
