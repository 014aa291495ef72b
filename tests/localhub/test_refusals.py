"""What the Hub does not take, in the Hub's own words."""

import os

import pytest
from huggingface_hub import CommitOperationAdd, HfApi
from huggingface_hub.errors import BadRequestError
from localhub.clones import Clone

LINE = "remote: " + "-" * 73
DECLINED = " ! [remote rejected] main -> main (pre-receive hook declined)"


def test_a_large_file_outside_lfs_is_refused(clone: Clone) -> None:
    """More than 10 MiB, and the Hub names the file and the ref."""
    clone.put("model.txt", b"x" * (10 * 1024 * 1024 + 1))
    clone.commit()
    said = clone.push()

    assert (
        f"{LINE}\n"
        "remote: Your push was rejected because it contains files larger than 10 MiB.\n"
        "remote: Please use https://git-lfs.github.com/ to store large files.\n"
        "remote: See also: https://hf.co/docs/hub/repositories-getting-started#terminal\n"
        "remote:\n"
        "remote: Offending files:\n"
        "remote:   - model.txt (ref: refs/heads/main)\n"
        f"{LINE}\n"
    ) in said
    assert DECLINED in said


def test_a_text_of_ten_mebibytes_is_taken(clone: Clone) -> None:
    """The limit itself is allowed."""
    clone.put("model.txt", b"x" * (10 * 1024 * 1024))
    clone.commit()

    assert clone.push().endswith("exit 0")


def test_a_binary_file_outside_lfs_is_refused_at_any_size(clone: Clone) -> None:
    """Four bytes are enough, and a name with blanks is named whole."""
    clone.put("some dir/ä.png", b"\x89P\0N")
    clone.commit()
    said = clone.push()

    assert (
        f"{LINE}\n"
        "remote: Your push was rejected because it contains binary files.\n"
        "remote: Please use https://huggingface.co/docs/hub/xet to store binary files.\n"
        "remote: See also: https://huggingface.co/docs/hub/xet/using-xet-storage#git\n"
        "remote:\n"
        "remote: Offending files:\n"
        "remote:   - some dir/ä.png (ref: refs/heads/main)\n"
        f"{LINE}\n"
    ) in said
    assert DECLINED in said


def test_a_pointer_without_its_object_is_refused(clone: Clone) -> None:
    """A push that left git-lfs out is noticed."""
    clone.put("model.safetensors", b"weights")
    clone.commit()
    finished = clone.git("push", "--no-verify", "origin", "main", check=False)

    said = "\n".join(line.rstrip() for line in finished.stderr.splitlines())
    assert (
        f"{LINE}\n"
        "remote: Your push was rejected because an LFS pointer pointed to a file that does not exist.\n"
        "remote: For instance, this can happen if you used git push --no-verify to push your changes.\n"
        "remote: Offending file:\n"
        "remote:   - model.safetensors\n"
        f"{LINE}\n"
    ) in said
    assert DECLINED in said


def test_a_card_with_bad_metadata_is_refused(clone: Clone) -> None:
    """What is wrong is said, field by field."""
    clone.put("README.md", b"---\nlicense: [1, 2]\ntags: 5\n---\n# Card\n")
    clone.commit()
    said = clone.push()

    assert (
        f"{LINE}\n"
        "remote: Sorry, your push was rejected during YAML metadata verification:\n"
        'remote:   - Error: "license" must be a string or an array of strings\n'
        'remote:   - Error: "tags" must be a string or an array of strings\n'
        f"{LINE}\n"
    ) in said
    assert DECLINED in said


def test_every_pushed_commit_is_read(clone: Clone) -> None:
    """Deleting the file in a later commit does not help."""
    clone.put("a.bin.txt", b"\0\1")
    clone.commit("add")
    (clone.path / "a.bin.txt").unlink()
    clone.put("b.txt", b"b")
    clone.commit("delete")

    assert "  - a.bin.txt (ref: refs/heads/main)" in clone.push()


def test_a_refused_push_leaves_nothing(clone: Clone) -> None:
    """What was refused is refused again, and what is clean passes afterwards."""
    clone.put("a.txt", b"\0\1")
    clone.commit("bad")
    first, second = clone.push(), clone.push()
    clone.git("reset", "--quiet", "--hard", "HEAD~")
    clone.put("b.txt", b"b")
    clone.commit("good")

    assert (DECLINED in first, DECLINED in second) == (True, True)
    assert clone.push().endswith("exit 0")


def test_a_new_branch_is_checked_against_all_that_is_known(clone: Clone) -> None:
    """An old branch's files are not read again; the new commit's are."""
    clone.git("checkout", "--quiet", "-b", "dev")
    clone.put("a.txt", b"\0")
    clone.commit()

    assert "  - a.txt (ref: refs/heads/dev)" in clone.push("dev")


@pytest.mark.parametrize(
    ("path", "content", "words"),
    [
        ("big.txt", b"x" * (10 * 1024 * 1024 + 1), "it contains files larger than 10 MiB."),
        ("a.txt", b"\0\1", "it contains binary files."),
        ("README.md", b"---\ntags: 5\n---\n", "rejected during YAML metadata verification: - Error"),
    ],
)
def test_the_same_is_refused_over_http(api: HfApi, repo_id: str, path: str, content: bytes, words: str) -> None:
    """A commit request is judged like a push, in the same words."""
    operation = CommitOperationAdd(path_in_repo=path, path_or_fileobj=content)
    operation._upload_mode = "regular"  # what a client that does not ask would send
    operation._should_ignore = False
    before = api.model_info(repo_id).sha
    with pytest.raises((BadRequestError, ValueError)) as caught:
        api.create_commit(repo_id, [operation], commit_message="bad")

    assert words in str(caught.value) or "Invalid metadata in README.md" in str(caught.value)
    assert before == api.model_info(repo_id).sha


def test_a_commit_that_names_a_missing_object_is_refused(api: HfApi, repo_id: str) -> None:
    """An lfsFile is taken only with its object."""
    operation = CommitOperationAdd(path_in_repo="a.safetensors", path_or_fileobj=os.urandom(100))
    operation._upload_mode = "lfs"
    operation._should_ignore = False
    operation._is_uploaded = True
    with pytest.raises(BadRequestError, match="an LFS pointer pointed to a file that does not exist"):
        api.create_commit(repo_id, [operation], commit_message="bad")
