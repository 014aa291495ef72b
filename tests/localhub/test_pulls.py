"""Pull requests, protected branches, and repositories that change their name or default branch."""

import uuid

import httpx2
import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import HfHubHTTPError
from localhub.clones import Clone, make_clone

from hubsync.localhub import LocalHub


def propose(api: HfApi, repo_id: str, **contents: bytes) -> int:
    added = [CommitOperationAdd(name, content) for name, content in contents.items()]
    made = api.create_commit(repo_id, added, commit_message="Add a", commit_description="Because.", create_pr=True)
    assert f"refs/pr/{made.pr_num}" == made.pr_revision
    return int(made.pr_num)


def test_a_commit_may_become_a_pull_request(api: HfApi, repo_id: str) -> None:
    """Main stays as it is until it is merged; then it has one more commit that names the request."""
    before = api.model_info(repo_id).sha
    num = propose(api, repo_id, a=b"a", b=b"b")
    api.upload_file(path_or_fileobj=b"c", path_in_repo="c", repo_id=repo_id, revision=f"refs/pr/{num}")
    during = api.model_info(repo_id).sha
    opened = api.get_discussion_details(repo_id, num)
    api.merge_pull_request(repo_id, num)
    merged, commits = api.get_discussion_details(repo_id, num), api.list_repo_commits(repo_id)

    assert before == during
    assert ("Add a", "open", True, "refs/heads/main") == (
        opened.title,
        opened.status,
        opened.is_pull_request,
        opened.target_branch,
    )
    assert ["comment", "commit", "commit"] == [event.type for event in opened.events]
    assert "+++ b/c" in opened.diff
    assert ("merged", commits[0].commit_id) == (merged.status, merged.merge_commit_oid)
    assert [f"Add a (#{num})", "initial commit"] == [commit.title for commit in commits]
    assert {"a", "b", "c"} < set(api.list_repo_files(repo_id))


def test_a_pull_request_may_begin_empty(api: HfApi, repo_id: str, clone: Clone) -> None:
    """As a draft; commits come later, through git too."""
    opened = api.create_pull_request(repo_id, "Something new")
    clone.write(a=b"a")
    clone.commit("a")
    said = clone.push(f"HEAD:{opened.git_reference}")
    api.comment_discussion(repo_id, opened.num, "Here it is.")
    api.rename_discussion(repo_id, opened.num, "Something newer")
    api.change_discussion_status(repo_id, opened.num, "open")
    shown = api.get_discussion_details(repo_id, opened.num)

    assert ("draft", "refs/pr/1") == (opened.status, opened.git_reference)
    assert "exit 0" in said
    assert ("open", "Something newer") == (shown.status, shown.title)
    assert ["comment", "comment", "title-change", "status-change", "commit"] == [event.type for event in shown.events]
    assert ["refs/pr/1"] == [ref.ref for ref in api.list_repo_refs(repo_id, include_pull_requests=True).pull_requests]


def test_discussions_are_listed(api: HfApi, repo_id: str) -> None:
    """The newest first, and only those that are asked for."""
    api.create_discussion(repo_id, "A question")
    num = propose(api, repo_id, a=b"a")
    api.change_discussion_status(repo_id, num, "closed")

    def listed(**which: str) -> list[str]:
        return [one.title for one in api.get_repo_discussions(repo_id, **which)]

    assert ["Add a", "A question"] == listed()
    assert ["A question"] == listed(discussion_status="open")
    assert ["Add a"] == listed(discussion_type="pull_request")
    assert [] == listed(author="nobody")


def test_conflicts_are_not_merged(api: HfApi, repo_id: str) -> None:
    """Nor what is closed, nor what is not there."""
    num = propose(api, repo_id, a=b"one")
    api.upload_file(path_or_fileobj=b"two", path_in_repo="a", repo_id=repo_id)
    shown = api.get_discussion_details(repo_id, num)
    statuses = []
    for wanted in (num, num + 1):
        with pytest.raises(HfHubHTTPError) as caught:
            api.merge_pull_request(repo_id, wanted)
        statuses.append(caught.value.response.status_code)

    assert shown.conflicting_files
    assert [409, 404] == statuses


def test_a_refused_commit_leaves_no_pull_request(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """Its number is free again."""
    body = '{"key":"header","value":{"summary":"x"}}\n{"key":"deletedFile","value":{"path":"missing"}}'
    answer = http.post(f"/api/models/{repo_id}/commit/main?create_pr=1", content=body)

    assert 404 == answer.status_code
    assert [] == list(api.get_repo_discussions(repo_id))
    assert 1 == propose(api, repo_id, a=b"a")


def test_a_protected_branch_takes_only_pull_requests(hub: LocalHub, api: HfApi, repo_id: str, clone: Clone) -> None:
    """Commits, pushes, squashes and deletions are forbidden; other branches are free."""
    hub.protect(repo_id, "main")
    with pytest.raises(HfHubHTTPError, match="pass `create_pr=1` as a query parameter") as caught:
        api.upload_file(path_or_fileobj=b"x", path_in_repo="x", repo_id=repo_id)
    with pytest.raises(HfHubHTTPError, match="create_pr=1"):
        api.super_squash_history(repo_id)
    clone.write(a=b"a")
    clone.commit()
    said = clone.push(), clone.push("main:side")
    api.merge_pull_request(repo_id, propose(api, repo_id, b=b"b"))

    assert 403 == caught.value.response.status_code
    assert "remote: DENIED update refs/heads/main: forbidden" in said[0]
    assert "exit 0" in said[1]
    assert api.file_exists(repo_id, "b")
    hub.protect(repo_id)
    assert "exit 0" in clone.push("--force", "main")


def test_a_renamed_repository_is_found_by_its_old_name(
    hub: LocalHub, api: HfApi, repo_id: str, clone: Clone, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """By the API and by git, until another repository takes the old name."""
    new = f"acme/{uuid.uuid4().hex[:8]}"
    api.move_repo(repo_id, new)
    found = api.model_info(repo_id).id
    again = make_clone(f"{hub.url}/{repo_id}", tmp_path_factory.mktemp("again") / "clone", clone.environment)
    again.write(a=b"a")
    again.commit()
    said = again.push()
    with pytest.raises(HfHubHTTPError, match="409"):
        api.move_repo(new, new)
    api.create_repo(repo_id)

    assert new == found
    assert "exit 0" in said
    assert [repo_id, new] == [api.model_info(repo_id).id, api.model_info(new).id]
    assert api.file_exists(new, "a")
    api.delete_repo(repo_id)
    assert not api.repo_exists(repo_id)


def test_the_default_branch_can_be_another(hub: LocalHub, api: HfApi, repo_id: str, clone: Clone) -> None:
    """It is what clients get, and what cannot be deleted; the old one can."""
    api.create_branch(repo_id, branch="trunk")
    api.upload_file(path_or_fileobj=b"t", path_in_repo="t", repo_id=repo_id, revision="trunk")
    hub.set_default_branch(repo_id, "trunk")
    said = clone.push("--delete", "main")

    assert "exit 0" in said
    assert "t" in [file.rfilename for file in api.model_info(repo_id).siblings]
    assert "deletion of the current branch prohibited" in clone.push("--delete", "trunk")


def test_a_repository_made_anew_is_another(api: HfApi, repo_id: str, http: httpx2.Client) -> None:
    """Nothing of the deleted one is left: no objects, no pull requests, no addresses."""
    propose(api, repo_id, a=b"\0" * 100)
    address = http.get(f"/api/models/{repo_id}/xet-write-token/main").json()["casUrl"]
    api.delete_repo(repo_id)
    gone = http.get(f"/api/models/{repo_id}").status_code
    api.create_repo(repo_id)

    assert 404 == gone
    assert [] == http.get(f"/api/models/{repo_id}/lfs-files").json()
    assert [] == list(api.get_repo_discussions(repo_id))
    assert address != http.get(f"/api/models/{repo_id}/xet-write-token/main").json()["casUrl"]
