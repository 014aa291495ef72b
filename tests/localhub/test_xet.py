"""Uploads through Xet, which is what ``huggingface_hub`` does unless it is told otherwise."""

import io
import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import httpx2
import pytest
from huggingface_hub import HfApi

from hubsync.localhub import LocalHub
from hubsync.localhub.refusals import RefusedError
from hubsync.localhub.xorbs import Segment, read_chunks, read_shard

PROGRAM = """
import random, struct, sys
from huggingface_hub import CommitOperationAdd, HfApi

numbers = random.Random(1)
contents = {
    "random.bin": numbers.randbytes(300_000),
    "floats.bin": struct.pack("<50000f", *(numbers.gauss(0, 1) for _ in range(50000))) + b"odd",
    "text.bin": b"\\0hello world" * 50000,
}
contents["again.bin"] = contents["random.bin"] + contents["text.bin"]
api = HfApi()
for name in ("random.bin", "floats.bin", "text.bin"):
    api.upload_file(path_or_fileobj=contents[name], path_in_repo=name, repo_id=sys.argv[1])
api.create_commit(sys.argv[1], [CommitOperationAdd("again.bin", contents["again.bin"])], commit_message="again")
for name, content in contents.items():
    print(name, open(api.hf_hub_download(sys.argv[1], name), "rb").read() == content)
"""


def test_the_client_works_with_its_own_settings(hub: LocalHub, api: HfApi, repo_id: str, tmp_path: Path) -> None:
    """Nothing is switched off; what comes back is what went in, and what is there already is not sent again."""
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("HF_")},
        "HF_ENDPOINT": hub.url,
        "HF_TOKEN": hub.token,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    }
    hub.forget_requests()
    finished = subprocess.run(
        (sys.executable, "-c", PROGRAM, repo_id), env=environment, capture_output=True, text=True, check=False
    )
    sent = [request.bytes_in for request in hub.requests if "/v1/xorbs/" in request.path]
    tree = {entry.path: entry.lfs for entry in api.list_repo_tree(repo_id)}

    assert (0, "random.bin True\nfloats.bin True\ntext.bin True\nagain.bin True\n") == (
        finished.returncode,
        finished.stdout,
    ), finished.stderr
    assert 900_000 == tree["again.bin"].size
    assert 4 == len(sent)
    assert sent[3] < 200_000


def test_a_token_opens_one_repository_for_xet(http: httpx2.Client, anonymous: httpx2.Client, repo_id: str) -> None:
    """Nothing is taken without it, and strangers get none."""
    granted = http.get(f"/api/models/{repo_id}/xet-write-token/main")
    address, token = granted.json()["casUrl"], granted.json()["accessToken"]
    other = address.replace(repo_id, "acme/other")
    answers = [
        anonymous.post(f"{address}/v1/shards", headers={"Authorization": f"Bearer {words}"}).status_code
        for words in (token, token[:-1], "no")
    ]

    assert granted.json()["casUrl"] == granted.headers["X-Xet-Cas-Url"]
    assert [400, 403, 403] == answers
    assert 404 == anonymous.post(f"{other}/v1/shards", headers={"Authorization": f"Bearer {token}"}).status_code
    assert 401 == anonymous.get(f"/api/models/{repo_id}/xet-write-token/main").status_code
    assert 404 == http.get(f"/api/models/{repo_id}/xet-write-token/nowhere").status_code


def test_a_shard_that_names_missing_chunks_is_refused(http: httpx2.Client, anonymous: httpx2.Client, repo_id: str) -> None:
    """Nothing is kept of it."""
    granted = http.get(f"/api/models/{repo_id}/xet-write-token/main").json()
    headers = {"Authorization": f"Bearer {granted['accessToken']}"}
    answer = anonymous.post(f"{granted['casUrl']}/v1/shards", headers=headers, content=shard_of(b"x" * 32, 5))

    assert 400 == answer.status_code
    assert "xorb that is not here" in json.loads(answer.text)["error"]
    assert [] == http.get(f"/api/models/{repo_id}/lfs-files").json()


@pytest.mark.parametrize("content", [b"", b"x" * 48, b"HFRepoMetaData" + bytes(34)])
def test_what_is_no_shard_is_refused(content: bytes) -> None:
    """Cut off or something else."""
    with pytest.raises(RefusedError, match="cannot be read"):
        list(read_shard(io.BytesIO(content)))


@pytest.mark.parametrize("xorb", [b"", bytes(8), b"\0\3\0\0\1\5\0\0abc", b"\0\3\0\0\7\3\0\0abc", b"X" * 20])
def test_what_is_no_xorb_is_refused(xorb: bytes) -> None:
    """Cut off, of an unknown packing, or with a size that does not hold."""
    with pytest.raises(RefusedError, match="cannot be read"):
        list(read_chunks(io.BytesIO(xorb), Segment("x", 0, 2, 5)))


def shard_of(xorb: bytes, size: int) -> bytes:
    tag = b"HFRepoMetaData\0" + bytes((85, 105, 103, 69, 106, 123, 129, 87, 131, 165, 189, 217, 92, 205, 209, 74, 169))
    head = tag + struct.pack("<QQ", 2, 0)
    file = b"f" * 32 + struct.pack("<II8x", 1 << 30, 1) + xorb + struct.pack("<IIII", 0, size, 0, 1)
    return head + file + b"s" * 32 + bytes(16) + b"\xff" * 32 + bytes(16)
