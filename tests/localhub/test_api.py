"""The unmodified huggingface_hub client against the Hub's JSON API."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import (
    CommitOperationAdd,
    CommitOperationCopy,
    CommitOperationDelete,
    HfApi,
    RepoFolder,
    snapshot_download,
)
from huggingface_hub.errors import (
    BadRequestError,
    HfHubHTTPError,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from hubsync.localhub import LocalHub

ODD_NAMES = ["with blank.txt", "ünï/cödé.txt", 'quo"te.txt', "new\nline.txt", "100%25.txt", "a+b&c=d?#.txt", "back\\slash"]


def test_a_token_has_a_user(api: HfApi) -> None:
    """The client reads its name and role."""
    me = api.whoami()

    assert ("localhub", "write") == (me["name"], me["auth"]["accessToken"]["role"])


def test_a_wrong_token_is_refused(hub: LocalHub) -> None:
    """The client says so in its own words."""
    with pytest.raises(HfHubHTTPError, match="Invalid user token"):
        HfApi(endpoint=hub.url, token="hf_wrong").whoami()


def test_a_repository_exists_once(api: HfApi, repo_id: str) -> None:
    """Making it again is a conflict, unless the client says that this is fine."""
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_repo(repo_id)

    assert repo_id == api.create_repo(repo_id, exist_ok=True).repo_id


def test_a_name_without_a_namespace_is_the_users(api: HfApi) -> None:
    """The token's user owns it."""
    assert "localhub/mine" == api.create_repo("mine", exist_ok=True).repo_id


@pytest.mark.parametrize(("private", "visibility"), [(True, None), (False, None), (None, "private"), (None, "public")])
def test_visibility_is_kept(api: HfApi, private: object, visibility: str | None) -> None:
    """Either way of asking is heard."""
    repo_id = f"acme/visible-{private}-{visibility}"
    api.create_repo(repo_id, private=private, visibility=visibility)

    assert (private is True or visibility == "private") == api.model_info(repo_id).private


def test_visibility_can_change(api: HfApi, repo_id: str) -> None:
    """A public repository is closed later."""
    api.update_repo_settings(repo_id, private=True)

    assert api.model_info(repo_id).private


def test_the_three_types_are_apart(api: HfApi) -> None:
    """A dataset and a model of one name are two repositories."""
    api.create_repo("acme/three", repo_type="dataset")

    assert api.repo_exists("acme/three", repo_type="dataset")
    assert not api.repo_exists("acme/three")
    assert ["acme/three"] == [info.id for info in api.list_datasets(author="acme") if info.id == "acme/three"]


def test_a_deleted_repository_is_gone(api: HfApi, repo_id: str) -> None:
    """Reading it, and deleting it again, find nothing."""
    api.delete_repo(repo_id)

    assert not api.repo_exists(repo_id)
    with pytest.raises(RepositoryNotFoundError):
        api.delete_repo(repo_id)


def test_a_private_repository_is_closed_without_a_token(hub: LocalHub, api: HfApi) -> None:
    """It looks like one that does not exist, to every call."""
    api.create_repo("closed/here", private=True)
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id="closed/here")
    stranger = HfApi(endpoint=hub.url, token=False)
    calls = [
        stranger.model_info,
        stranger.list_repo_files,
        stranger.list_repo_refs,
        stranger.list_repo_commits,
        lambda name: stranger.get_paths_info(name, ["a.txt"]),
        lambda name: stranger.hf_hub_download(name, "a.txt"),
    ]
    for call in calls:
        with pytest.raises(RepositoryNotFoundError):
            call("closed/missing")

    for call in calls:
        with pytest.raises(RepositoryNotFoundError):
            call("closed/here")


def test_nothing_is_written_without_a_token(repo_id: str, anonymous: httpx2.Client) -> None:
    """A public repository is no less safe."""
    below = f"/api/models/{repo_id}"
    answers = [
        anonymous.post("/api/repos/create", json={"name": "x"}),
        anonymous.request("DELETE", "/api/repos/delete", json={"name": "x"}),
        anonymous.post(f"{below}/commit/main", content=b""),
        anonymous.post(f"{below}/preupload/main", json={"files": []}),
        anonymous.post(f"{below}/branch/dev", json={}),
        anonymous.delete(f"{below}/branch/main"),
        anonymous.post(f"{below}/tag/main", json={"tag": "v1"}),
        anonymous.post(f"{below}/super-squash/main", json={}),
        anonymous.put(f"{below}/settings", json={"visibility": "private"}),
        anonymous.post(f"{below}/lfs-files/batch", json={}),
        anonymous.post(f"/{repo_id}.git/info/lfs/objects/batch", json={"operation": "upload", "objects": []}),
    ]

    assert [401] * len(answers) == [answer.status_code for answer in answers]


def test_a_folder_comes_back_as_it_went(hub: LocalHub, api: HfApi, repo_id: str, tmp_path: Path) -> None:
    """Files of every odd name, in LFS and not, survive upload_folder and snapshot_download."""
    contents = {name: f"content of {name}".encode() for name in ODD_NAMES}
    contents |= {"weights of\nall.safetensors": b"\0" * 100_000, "empty": b"", "deep/er/model.bin": b"\1\2"}
    for name, content in contents.items():
        path = tmp_path / "up" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    api.upload_folder(repo_id=repo_id, folder_path=tmp_path / "up")
    down = tmp_path / "down"
    snapshot_download(repo_id, local_dir=down, endpoint=hub.url, token=hub.token)

    assert contents == {name: (down / name).read_bytes() for name in contents}


def test_the_tree_tells_files_from_pointers(api: HfApi, repo_id: str) -> None:
    """A pointer shows the object's size and oid, and its own."""
    api.upload_file(path_or_fileobj=b"\0" * 5000, path_in_repo="dir/a.safetensors", repo_id=repo_id)
    entries = {entry.path: entry for entry in api.list_repo_tree(repo_id, recursive=True)}
    info = entries["dir/a.safetensors"]

    assert {".gitattributes", "dir", "dir/a.safetensors"} == entries.keys()
    assert isinstance(entries["dir"], RepoFolder)
    assert (5000, 5000, 129) == (info.size, info.lfs.size, info.lfs.pointer_size)
    assert (1519, None) == (entries[".gitattributes"].size, entries[".gitattributes"].lfs)


def test_a_large_tree_comes_in_pages(hub: LocalHub, api: HfApi, repo_id: str) -> None:
    """The client follows the links and sees every path once."""
    operations = [CommitOperationAdd(f"many/{number:04}.txt", b"x") for number in range(1200)]
    api.create_commit(repo_id, operations, commit_message="many")
    hub.forget_requests()
    paths = [entry.path for entry in api.list_repo_tree(repo_id, "many")]

    assert [f"many/{number:04}.txt" for number in range(1200)] == paths
    assert 2 == len([request for request in hub.requests if "/tree/" in request.path])


def test_an_expanded_tree_names_the_last_commits(api: HfApi, repo_id: str) -> None:
    """Each path, and each directory, knows who wrote it last."""
    api.upload_file(path_or_fileobj=b"1", path_in_repo="d/a.txt", repo_id=repo_id, commit_message="first")
    api.upload_file(path_or_fileobj=b"2", path_in_repo="d/b.txt", repo_id=repo_id, commit_message="second")
    entries = {entry.path: entry for entry in api.list_repo_tree(repo_id, recursive=True, expand=True)}

    titles = {path: entry.last_commit.title for path, entry in entries.items()}
    assert {".gitattributes": "initial commit", "d": "second", "d/a.txt": "first", "d/b.txt": "second"} == titles


def test_paths_that_do_not_exist_are_left_out(api: HfApi, repo_id: str) -> None:
    """Of many paths, those that are there are described."""
    api.create_commit(repo_id, [CommitOperationAdd(name, b"x") for name in ODD_NAMES], commit_message="odd")
    found = api.get_paths_info(repo_id, [*ODD_NAMES, "none", ".gitattributes", "ünï"])

    assert {*ODD_NAMES, ".gitattributes", "ünï"} == {info.path for info in found}


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_are_found_alone(api: HfApi, repo_id: str, name: str) -> None:
    """A file is there under its own name, and under no other."""
    api.upload_file(path_or_fileobj=b"x", path_in_repo=name, repo_id=repo_id)

    assert api.file_exists(repo_id, name)
    assert not api.file_exists(repo_id, f"{name}x")


def test_info_lists_the_files(api: HfApi, repo_id: str) -> None:
    """With metadata on request, and the card's own."""
    api.upload_file(path_or_fileobj=b"---\nlicense: mit\n---\n", path_in_repo="README.md", repo_id=repo_id)
    info = api.model_info(repo_id, files_metadata=True)

    assert [(".gitattributes", 1519), ("README.md", 21)] == [(file.rfilename, file.size) for file in info.siblings]
    assert "mit" == info.card_data.license
    assert timedelta(minutes=5) > datetime.now(UTC) - info.last_modified


def test_what_is_missing_has_its_own_name(api: HfApi, repo_id: str) -> None:
    """The client tells a missing revision from a missing file."""
    with pytest.raises(RevisionNotFoundError):
        api.model_info(repo_id, revision="nope")
    with pytest.raises(RevisionNotFoundError):
        api.hf_hub_download(repo_id, "a.txt", revision="no pe")
    with pytest.raises(RemoteEntryNotFoundError):
        api.hf_hub_download(repo_id, "a.txt")
    with pytest.raises(RemoteEntryNotFoundError):
        list(api.list_repo_tree(repo_id, "nowhere"))


def test_history_is_listed_newest_first(api: HfApi, repo_id: str) -> None:
    """Title, message, author and date of every commit."""
    api.upload_file(
        path_or_fileobj=b"x", path_in_repo="a", repo_id=repo_id, commit_message="title", commit_description="text"
    )
    commits = api.list_repo_commits(repo_id)

    assert [("title", "text", ["localhub"]), ("initial commit", "", ["system"])] == [
        (commit.title, commit.message, commit.authors) for commit in commits
    ]
    assert timedelta(minutes=5) > datetime.now(UTC) - commits[0].created_at


def test_branches_come_and_go(api: HfApi, repo_id: str) -> None:
    """A name with a slash is one name; the default branch stays."""
    start = api.model_info(repo_id).sha
    api.create_branch(repo_id, branch="ckpt/1")
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo_id, revision="ckpt/1")
    api.create_branch(repo_id, branch="old", revision=start)
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_branch(repo_id, branch="old")
    branches = {branch.name: branch.target_commit for branch in api.list_repo_refs(repo_id).branches}
    api.delete_branch(repo_id, branch="old")

    assert {"main", "old", "ckpt/1"} == branches.keys()
    assert start == branches["old"] == branches["main"] != branches["ckpt/1"]
    assert [".gitattributes", "a.txt"] == api.list_repo_files(repo_id, revision="ckpt/1")
    assert {"main", "ckpt/1"} == {branch.name for branch in api.list_repo_refs(repo_id).branches}
    with pytest.raises(HfHubHTTPError, match="403"):
        api.delete_branch(repo_id, branch="main")


def test_tags_come_and_go(api: HfApi, repo_id: str) -> None:
    """With a message or without, a tag names its commit."""
    start = api.model_info(repo_id).sha
    api.create_tag(repo_id, tag="v1")
    api.create_tag(repo_id, tag="v2", tag_message="said")
    tags = {tag.name: tag.target_commit for tag in api.list_repo_refs(repo_id).tags}
    api.delete_tag(repo_id, tag="v1")

    assert {"v1": start, "v2": start} == tags
    assert ["v2"] == [tag.name for tag in api.list_repo_refs(repo_id).tags]
    assert start == api.model_info(repo_id, revision="v2").sha


def test_a_bad_branch_name_is_refused(api: HfApi, repo_id: str) -> None:
    """What git cannot name, the Hub does not make."""
    with pytest.raises(BadRequestError):
        api.create_branch(repo_id, branch="bad..name")


def test_squashing_keeps_the_files(api: HfApi, repo_id: str) -> None:
    """One commit is left, with the same tree."""
    for number in range(3):
        api.upload_file(path_or_fileobj=b"x", path_in_repo=f"{number}.txt", repo_id=repo_id)
    before = api.list_repo_files(repo_id)
    api.super_squash_history(repo_id, commit_message="all of it")

    assert ["all of it"] == [commit.title for commit in api.list_repo_commits(repo_id)]
    assert before == api.list_repo_files(repo_id)


def test_a_stale_parent_is_refused(api: HfApi, repo_id: str) -> None:
    """A commit that stands on an older one than the head is not made."""
    start = api.model_info(repo_id).sha
    api.upload_file(path_or_fileobj=b"x", path_in_repo="a.txt", repo_id=repo_id, parent_commit=start)
    with pytest.raises(HfHubHTTPError, match="A commit has happened since") as caught:
        api.upload_file(path_or_fileobj=b"y", path_in_repo="a.txt", repo_id=repo_id, parent_commit=start)

    assert 412 == caught.value.response.status_code


def test_commits_at_the_same_time_all_arrive(api: HfApi, repo_id: str) -> None:
    """None overwrites another's, none is refused."""
    with ThreadPoolExecutor(8) as pool:
        for number in range(8):
            pool.submit(api.upload_file, path_or_fileobj=b"x", path_in_repo=f"{number}.txt", repo_id=repo_id)

    assert [".gitattributes", *(f"{number}.txt" for number in range(8))] == api.list_repo_files(repo_id)
    assert 9 == len(api.list_repo_commits(repo_id))


def test_one_commit_adds_copies_and_deletes(api: HfApi, repo_id: str) -> None:
    """All operations are one commit."""
    api.create_commit(
        repo_id,
        [CommitOperationAdd("old/a.txt", b"a"), CommitOperationAdd("old/b.txt", b"b"), CommitOperationAdd("w.bin", b"\0")],
        commit_message="first",
    )
    api.create_commit(
        repo_id,
        [
            CommitOperationAdd("new.txt", b"n"),
            CommitOperationCopy("w.bin", "copy.bin"),
            CommitOperationDelete("old/a.txt"),
        ],
        commit_message="second",
    )
    api.delete_folder("old", repo_id)

    assert [".gitattributes", "copy.bin", "new.txt", "w.bin"] == sorted(api.list_repo_files(repo_id))
    assert 4 == len(api.list_repo_commits(repo_id))


def test_what_is_not_there_cannot_be_deleted(api: HfApi, repo_id: str) -> None:
    """The client is told which file it is."""
    with pytest.raises(RemoteEntryNotFoundError, match="A file with this name doesn't exist"):
        api.delete_file("none.txt", repo_id)


def test_uncovered_objects_get_a_line_of_attributes(api: HfApi, repo_id: str, tmp_path: Path) -> None:
    """A file that is in LFS for its content alone is marked, so that git knows."""
    api.create_commit(
        repo_id,
        [CommitOperationAdd("dir/no extension [1]", b"\0\1"), CommitOperationAdd("covered.bin", b"\0")],
        commit_message="binary",
    )
    path = api.hf_hub_download(repo_id, ".gitattributes", local_dir=tmp_path)

    assert '"dir/no extension \\\\[1]" filter=lfs diff=lfs merge=lfs -text' == Path(path).read_text().splitlines()[-1]
    assert [True, True] == [
        info.lfs is not None for info in api.get_paths_info(repo_id, ["dir/no extension [1]", "covered.bin"])
    ]


def test_unchanged_files_make_no_commit(api: HfApi, repo_id: str) -> None:
    """The Hub says what it has, and the client leaves it out."""
    operations = [("a.txt", b"text"), ("a.bin", b"\0bin")]
    for _ in range(2):
        api.create_commit(repo_id, [CommitOperationAdd(*each) for each in operations], commit_message="same")

    assert ["same", "initial commit"] == [commit.title for commit in api.list_repo_commits(repo_id)]


def test_ignored_files_are_not_wanted(api: HfApi, repo_id: str) -> None:
    """The repository's own .gitignore is minded."""
    api.upload_file(path_or_fileobj=b"*.log\n", path_in_repo=".gitignore", repo_id=repo_id)
    api.create_commit(
        repo_id, [CommitOperationAdd("a.log", b"log"), CommitOperationAdd("a.txt", b"text")], commit_message="both"
    )

    assert [".gitattributes", ".gitignore", "a.txt"] == api.list_repo_files(repo_id)


def test_bad_metadata_stops_a_commit_early(api: HfApi, repo_id: str) -> None:
    """The client asks about a card before it sends anything."""
    with pytest.raises(ValueError, match="Invalid metadata"):
        api.upload_file(path_or_fileobj=b"---\ntags: {\n---\n", path_in_repo="README.md", repo_id=repo_id)


def test_objects_can_be_listed_and_deleted(api: HfApi, repo_id: str) -> None:
    """Each object has a path that points to it, until it is deleted for good."""
    api.upload_file(path_or_fileobj=b"\0weights", path_in_repo="dir/w.bin", repo_id=repo_id)
    listed = list(api.list_lfs_files(repo_id))
    api.permanently_delete_lfs_files(repo_id, listed, rewrite_history=False)

    assert [("dir/w.bin", 8)] == [(file.filename, file.size) for file in listed]
    assert [] == list(api.list_lfs_files(repo_id))


def test_checksums_can_be_verified(api: HfApi, repo_id: str, tmp_path: Path) -> None:
    """The client's own verification agrees with what was sent."""
    (tmp_path / "a.txt").write_bytes(b"text")
    (tmp_path / "a.bin").write_bytes(b"\0bin")
    api.upload_folder(repo_id=repo_id, folder_path=tmp_path)

    assert [] == api.verify_repo_checksums(repo_id, local_dir=tmp_path).mismatches


@pytest.mark.parametrize("path", ["../a", "a/../b", ".git/config", "a//b", "a/.GIT/x"])
def test_paths_that_lead_elsewhere_are_refused(repo_id: str, http: httpx2.Client, path: str) -> None:
    """A commit request cannot name them."""
    line = f'{{"key": "file", "value": {{"path": "{path}", "content": "", "encoding": "base64"}}}}\n'
    answer = http.post(f"/api/models/{repo_id}/commit/main", content=line)

    assert (400, f"Invalid path: {path}") == (answer.status_code, answer.json()["error"])


def test_unknown_routes_answer_in_json(http: httpx2.Client) -> None:
    """A client that asks for more than there is can read the answer."""
    answer = http.get("/api/agent-harnesses")

    assert (404, "application/json") == (answer.status_code, answer.headers["content-type"])
    assert "error" in answer.json()
