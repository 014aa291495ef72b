"""Unmodified git and git-lfs against the Hub."""

import base64
import os
import subprocess
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi
from localhub.clones import Clone, make_clone

from hubsync.localhub import LocalHub


def test_a_new_repository_holds_the_hubs_first_commit(clone: Clone) -> None:
    """The default attributes are the Hub's own, committed by the Hub's own author."""
    said = clone.git("log", "--format=%an %s").stdout

    assert "system initial commit\n" == said
    assert "a6344aac8c09253b3b630fb776ae94478aa0275b\n" == clone.git("rev-parse", "HEAD:.gitattributes").stdout


@pytest.mark.parametrize("repo_type", ["model", "dataset", "space"])
def test_large_files_travel_through_lfs_and_back(
    api: HfApi, repo_type: str, tmp_path: Path, git_environment: dict[str, str]
) -> None:
    """What one clone pushes, another gets, byte for byte, in repositories of each type."""
    sdk = "static" if repo_type == "space" else None
    url = str(api.create_repo(f"acme/{repo_type}-lfs", repo_type=repo_type, space_sdk=sdk, private=True))
    first = make_clone(url, tmp_path / "first", git_environment)
    content = os.urandom(3_000_000)
    first.put("model.safetensors", content)
    first.put("config.json", b"{}")
    first.commit()
    first.push()
    second = make_clone(url, tmp_path / "second", git_environment)

    assert content == (second.path / "model.safetensors").read_bytes()
    assert "version https://git-lfs" in first.git("show", "HEAD:model.safetensors").stdout


def test_a_second_push_of_the_same_object_sends_nothing(hub: LocalHub, clone: Clone) -> None:
    """The batch names no action for an object that is there."""
    clone.put("a.safetensors", b"same")
    clone.commit()
    clone.push()
    hub.forget_requests()
    clone.git("checkout", "--quiet", "-b", "other", "HEAD~")
    clone.put("b.safetensors", b"same")
    clone.commit()
    clone.push("other")

    assert [] == [request for request in hub.requests if request.method == "PUT"]


def test_packs_of_any_size_arrive(hub: LocalHub, clone: Clone) -> None:
    """A pack above git's post buffer comes in chunks, without a length."""
    text = base64.b64encode(os.urandom(4_000_000))
    clone.write(text=text, small=b"text")
    pushed = clone.commit()
    said = clone.push()

    assert said.endswith("exit 0")
    assert any(request.bytes_in > 3_000_000 for request in hub.requests if request.path.endswith("git-receive-pack"))
    assert pushed in clone.git("ls-remote", "origin", "main").stdout


@pytest.mark.parametrize("version", ["0", "2"])
def test_compressed_requests_are_understood(clone: Clone, tmp_path: Path, version: str) -> None:
    """Git compresses a request that wants many commits."""
    for number in range(40):
        clone.git("commit", "--quiet", "--allow-empty", "-m", f"{number}")
        clone.git("branch", f"branch-{number}")
    clone.push("--all")
    environment = {**clone.environment, "GIT_TRACE_CURL": "1", "GIT_TRACE_CURL_NO_DATA": "1"}
    url = clone.git("config", "remote.origin.url").stdout.strip()
    traced = subprocess.run(
        ("git", "-c", f"protocol.version={version}", "clone", url, str(tmp_path / "other")),
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    other = Clone(tmp_path / "other", clone.environment)

    assert "content-encoding: gzip" in traced.stderr.lower()
    assert clone.git("rev-parse", "main").stdout == other.git("rev-parse", "origin/branch-39").stdout


@pytest.mark.parametrize("address", ["{id}", "{id}.git"])
def test_a_remote_may_be_named_with_or_without_git(
    hub: LocalHub, repo_id: str, address: str, git_environment: dict[str, str]
) -> None:
    """Both addresses lead to the same repository."""
    url = f"{hub.url}/{address.format(id=repo_id)}"
    listed = subprocess.run(("git", "ls-remote", url), env=git_environment, capture_output=True, text=True, check=True)

    assert "refs/heads/main" in listed.stdout


def test_a_bearer_token_opens_git(hub: LocalHub, api: HfApi, git_environment: dict[str, str]) -> None:
    """A token may come in a header of its own, scoped to the Hub."""
    url = str(api.create_repo("acme/bearer", private=True))
    (Path(git_environment["HOME"]) / ".gitconfig").unlink()
    settings = ("-c", f"http.{hub.url}/.extraHeader=Authorization: Bearer {hub.token}")
    listed = subprocess.run(
        ("git", *settings, "ls-remote", url), env=git_environment, capture_output=True, text=True, check=False
    )

    assert 0 == listed.returncode


def test_a_wrong_token_is_refused(hub: LocalHub, api: HfApi, git_environment: dict[str, str]) -> None:
    """Git is told that the authentication failed."""
    api.create_repo("acme/wrong-token", private=True)
    url = f"{hub.url}/acme/wrong-token".replace("://", "://hf_user:hf_wrong@")
    finished = subprocess.run(("git", "ls-remote", url), env=git_environment, capture_output=True, text=True, check=False)

    assert "Authentication failed" in finished.stderr


@pytest.mark.parametrize("name", ["private", "missing"])
def test_without_a_token_a_private_repository_looks_like_none(api: HfApi, anonymous: httpx2.Client, name: str) -> None:
    """Git and LFS ask for credentials in both cases, and say nothing else."""
    api.create_repo("closed/private", private=True, exist_ok=True)
    refs = anonymous.get(f"/closed/{name}/info/refs?service=git-upload-pack")
    objects = anonymous.post(f"/closed/{name}.git/info/lfs/objects/batch", json={"operation": "download"})

    assert [401, 401] == [refs.status_code, objects.status_code]
    assert refs.headers["WWW-Authenticate"].startswith("Basic realm=")
    assert "LFS-Authenticate" in objects.headers


def test_a_public_repository_is_read_but_not_written_without_a_token(repo_id: str, anonymous: httpx2.Client) -> None:
    """Reading is open, pushing asks for credentials."""
    answers = [anonymous.get(f"/{repo_id}/info/refs?service=git-{service}-pack") for service in ("upload", "receive")]

    assert [200, 401] == [answer.status_code for answer in answers]


def test_a_missing_repository_is_named_to_git(hub: LocalHub, git_environment: dict[str, str]) -> None:
    """Who has a token is told that there is no such repository."""
    finished = subprocess.run(
        ("git", "ls-remote", f"{hub.url}/acme/none"), env=git_environment, capture_output=True, text=True, check=False
    )

    assert "remote: Repository not found" in finished.stderr


def test_partial_clones_work(hub: LocalHub, api: HfApi, clone: Clone, tmp_path: Path) -> None:
    """A clone without blobs fetches one when it is asked for."""
    api.upload_file(path_or_fileobj=b"later", path_in_repo="a.txt", repo_id=_id_of(clone))
    bare = make_clone(f"{hub.url}/{_id_of(clone)}", tmp_path / "partial", clone.environment, "--filter=blob:none", "--bare")

    assert "later" == bare.git("show", "main:a.txt").stdout


def test_commits_in_the_making_are_not_shown(hub: LocalHub, api: HfApi, clone: Clone) -> None:
    """The Hub's own refs stay hidden, and none is left behind."""
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=_id_of(clone))
    refs = subprocess.run(
        ("git", "for-each-ref", "--format=%(refname)"),
        cwd=hub.directory / "models" / f"{_id_of(clone)}.git",
        capture_output=True,
        text=True,
        check=True,
    )

    assert "refs/heads/main\n" == refs.stdout


def _id_of(clone: Clone) -> str:
    url = clone.git("config", "remote.origin.url").stdout.strip()
    return "/".join(url.split("/")[-2:])


def test_history_may_be_rewritten_only_by_force(clone: Clone, api: HfApi, repo_id: str) -> None:
    """A push that is no fast-forward is refused by git; with force the Hub takes it, as the real one does."""
    clone.write(a=b"one")
    clone.commit()
    clone.push()
    clone.git("reset", "--quiet", "--hard", "HEAD~1")
    clone.write(b=b"two")
    new = clone.commit()
    refused, forced = clone.push(), clone.push("--force", "main")

    assert "! [rejected]" in refused
    assert "exit 0" in forced
    assert new == api.model_info(repo_id).sha


def test_the_default_branch_is_not_deleted(clone: Clone, api: HfApi, repo_id: str) -> None:
    """Another branch is."""
    clone.push("main:side")
    said = clone.push("--delete", "main"), clone.push("--delete", "side")

    assert "deletion of the current branch prohibited" in said[0]
    assert "exit 0" in said[1]
    assert ["main"] == [ref.name for ref in api.list_repo_refs(repo_id).branches]
