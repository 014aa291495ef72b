"""What people leave in a training directory: secrets of every kind, which are held, and what merely looks like one.

All secrets are made up here, so that no scanner takes this file for a leak.
"""

import base64
import gzip
import io
import itertools
import json
import pickle
import random
import string
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from structlog.testing import capture_logs
from support.plain_server import PlainServer
from support.rig import REPO, Rig, safetensors

RANDOM = random.Random(11)
HEX, ALNUM, UPPER = "0123456789abcdef", string.ascii_letters + string.digits, string.ascii_uppercase + "234567"


def made(count: int, alphabet: str = ALNUM) -> str:
    return "".join(RANDOM.choices(alphabet, k=count))


def pem(kind: str) -> str:
    lines = [made(64, ALNUM + "+/") for _ in range(3)]
    return "\n".join([f"-----BEGIN {kind}-----", *lines, f"-----END {kind}-----", ""])


def jwt() -> str:
    head = base64.urlsafe_b64encode(b'{"alg":"RS256","kid":"x"}').decode().rstrip("=")
    body = base64.urlsafe_b64encode(b'{"iss":"kubernetes/serviceaccount","sub":"x"}').decode().rstrip("=")
    return f"{head}.{body}.{made(86)}"


def zipped(name: str, content: bytes, method: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data/0", RANDOM.randbytes(3000))
        archive.writestr(name, content)
    return file.getvalue()


def notebook(code: str) -> str:
    cell = {"cell_type": "code", "source": [f"{code}\n"], "outputs": [], "metadata": {}, "execution_count": None}
    return json.dumps({"cells": [cell], "nbformat": 4, "nbformat_minor": 5, "metadata": {}})


def names(dtype: str, text: bytes) -> bytes:
    """Return an array of strings as ``numpy.save`` writes it."""
    header = f"{{'descr': '{dtype}', 'fortran_order': False, 'shape': (1,), }}".ljust(117) + "\n"
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode() + text.ljust(160, b"\0")


HF = "hf_" + made(34, string.ascii_letters)
ARGUMENTS = {"output_dir": "out", "learning_rate": 5e-5, "hub_token": HF, "push_to_hub": True}
HEADER = json.dumps({"__metadata__": {"token": HF}, "w": {"dtype": "U8", "shape": [8], "data_offsets": [0, 8]}}).encode()

HELD: dict[str, str | bytes] = {
    ".env": "A=b\n",
    "prod.env": "DB=x\n",
    ".netrc": "machine x login y password z\n",
    "id_rsa": "anything",
    "id_ed25519": pem("OPENSSH PRIVATE KEY"),
    "store.p12": b"\0\1",
    ".git-credentials": "https://u:p@example.com\n",
    "kaggle.json": json.dumps({"username": "u", "key": made(32, HEX)}),
    ".docker/config.json": json.dumps({"auths": {"https://index.docker.io/v1/": {"auth": made(40)}}}),
    "kubeconfig": "apiVersion: v1\nkind: Config\nusers: []\n",
    "admin.conf": f"users:\n- name: a\n  user:\n    client-key-data: LS0tLS1CRUdJTiBS{made(300)}\n",
    "cluster.yaml": f"users:\n- name: a\n  user:\n    token: {jwt()}\n",
    "run.sh": f"#!/bin/sh\nexport HF_TOKEN={HF}\n",
    "config.json": json.dumps({"model_type": "x", "use_auth_token": HF}),
    "accelerate.yaml": f"hub:\n  token: {HF}\n",
    "pyproject.toml": f'[tool.x]\ntoken = "{HF}"\n',
    "train.py": f"from huggingface_hub import login\nlogin('{HF}')\n",
    "notebook.ipynb": notebook(f'login(token="{HF}")'),
    "metrics.jsonl": "".join(json.dumps({"step": n, "env": HF if n == 7 else ""}) + "\n" for n in range(9)),
    "table.csv": f"step,token\n1,{HF}\n",
    "powershell.txt": f"$env:HF_TOKEN = '{HF}'\r\n".encode("utf-16"),
    "big-endian.txt": b"\xfe\xff" + f"token {HF}".encode("utf-16-be"),
    "no-mark.txt": f"$env:HF_TOKEN = '{HF}'\r\n".encode("utf-16-le"),
    "big-endian-no-mark.txt": f"token {HF}".encode("utf-16-be"),
    "names.npy": names("<U40", HF.encode("utf-32-le")),
    "names-big-endian.npy": names(">U40", HF.encode("utf-32-be")),
    "names.npz": zipped("names.npy", names("<U40", HF.encode("utf-32-le")), zipfile.ZIP_DEFLATED),
    "names.pkl": pickle.dumps({"names": ("numpy", HF.encode("utf-32-le"))}),
    "training_args.bin": zipped("training_args/data.pkl", pickle.dumps(ARGUMENTS, protocol=2)),
    "legacy.bin": pickle.dumps(ARGUMENTS, protocol=0),
    "other_hub.bin": zipped("x/data.pkl", pickle.dumps({"hub_token": made(24)}, protocol=2), zipfile.ZIP_DEFLATED),
    "model.keras": zipped("metadata.json", json.dumps({"token": HF}).encode(), zipfile.ZIP_DEFLATED),
    "model.safetensors": len(HEADER).to_bytes(8, "little") + HEADER + bytes(8),
    "oauth.txt": "hf_oauth_" + made(40),
    "aws.ini": f"[default]\naws_access_key_id = AKIA{made(16, UPPER)}\naws_secret_access_key = {made(40)}\n",
    "sts.json": json.dumps({"SecretAccessKey": made(40, ALNUM + "+/"), "SessionToken": made(200)}),
    "gcp.json": json.dumps({"type": "service_account", "private_key_id": made(40, HEX), "private_key": pem("PRIVATE KEY")}),
    "firebase.js": f'const key = "AIza{made(35)}";\n',
    "ci.yml": f"env:\n  GH: ghp_{made(36)}\n",
    "fine.txt": f"github_pat_{made(22)}_{made(59)}\n",
    "openai.py": f'client = OpenAI(api_key="sk-proj-{made(48)}")\n',
    "anthropic.toml": f'key = "sk-ant-api03-{made(93)}"\n',
    "slack.json": json.dumps({"bot": f"xoxb-{made(12, string.digits)}-{made(12, string.digits)}-{made(24)}"}),
    "hook.txt": f"https://hooks.slack.com/services/T{made(9, UPPER)}/B{made(9, UPPER)}/{made(24)}",
    "stripe.rb": f"Stripe.api_key = 'sk_live_{made(24)}'\n",
    "server.pem": pem("RSA PRIVATE KEY"),
    "one-line.json": json.dumps({"key": pem("EC PRIVATE KEY")}),
    "wandb.yaml": f"env:\n  WANDB_API_KEY: {made(40, HEX)}\n",
    "comet.ini": f"[comet]\nCOMET_API_KEY={made(25)}\n",
    "neptune.sh": f"export NEPTUNE_API_TOKEN={base64.b64encode(RANDOM.randbytes(60)).decode()}",
    "nim.py": f'NVIDIA = "nvapi-{made(64)}"\n',
    "groq.py": f'GROQ = "gsk_{made(52)}"\n',
    "azure.txt": f"DefaultEndpointsProtocol=https;AccountName=x;AccountKey={made(86)}==\n",
    "gitlab.txt": f"glpat-{made(20)}\n",
    "package.npmrc": f"//registry/:_authToken=npm_{made(36)}\n",
}  # fmt: skip


def _texts() -> Iterator[tuple[str, str]]:
    """Yield what documents, templates and code have in the place of a secret."""
    for number, text in enumerate((
        "export HF_TOKEN=hf_" + "x" * 34, "hf_" + "X" * 37, "token = 'hf_...'",
        "HF_TOKEN=hf_your_token_here_replace_me_please",
        "sk-" + "x" * 48,
        "OPENAI_API_KEY=sk-...", "sk-proj-" + "*" * 40, "AKIAIOSFODNN7EXAMPLE", "aws_access_key_id = AKIAXXXXXXXXXXXXXXXX",
        "aws_secret_access_key = wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY", "ghp_" + "0" * 36, "github_pat_" + "X" * 82,
        "xoxb-your-token-here", "sk_test_" + "4" * 24, "sk_live_" + "X" * 24, "AIza" + "X" * 35,
        "-----BEGIN PRIVATE KEY-----\nMIIE...\n-----END PRIVATE KEY-----", "-----BEGIN RSA PRIVATE KEY-----\n<your key>\n",
        "-----BEGIN PUBLIC KEY-----\n" + made(64), "-----BEGIN CERTIFICATE-----\n" + made(64),
        "ssh-rsa AAAAB3NzaC1yc2E" + made(300),
        '"hub_token": "<HUB_TOKEN>"', '"hub_token": null', "hub_token: ${HUB_TOKEN}", "hub_token=args.hub_token,",
        "password: ${DB_PASSWORD}", "WANDB_API_KEY=${{ secrets.WANDB }}", "os.environ['HF_TOKEN']", "api_key = None",
        "machine learning is fun, login to the password page to see more of it", "hf_hub_download, hf_transfer, hf_xet",
        "machine api.wandb.ai login user password <your-api-key>", "the sk-learn and task-based benchmarks",
        "token: eyJ...",
        "client-key-data: REDACTED", "COMET_API_KEY=<your-key>", "NEPTUNE_API_TOKEN=ANONYMOUS", "gsk_", "nvapi-" + "x" * 64,
        "https://huggingface.co/settings/tokens", "pypi-AgEIcHlwaS5vcmc...", "npm_" + "x" * 36, "glpat-" + "x" * 20,
        "dapi" + "0" * 32, "r8_" + "*" * 37, "AccountKey=" + "0" * 86 + "==",
    )):  # fmt: skip
        for suffix in ("md", "py"):
            yield f"docs/{number}.{suffix}", f"# how to\n\n    {text}\n"


def _model_files(seed: int) -> Iterator[tuple[str, str | bytes]]:
    """Yield the files of a model, with the strings in them that scanners trip over."""
    source = random.Random(seed)
    where = f"model-{seed}"
    pieces = ["".join(source.choices(string.ascii_letters + "_-Ġ▁", k=source.randint(1, 14))) for _ in range(3000)]
    odd = [
        "hf_",
        "sk-",
        "AKIA",
        "ghp_",
        "xoxb-",
        "AIza",
        "-----BEGIN",
        "-----BEGIN RSA PRIVATE KEY-----",
        "eyJ",
        "password",
        "machine",
    ]
    vocabulary = {piece: number for number, piece in enumerate([*pieces, *odd])}
    merges = [f"{one} {other}" for one, other in itertools.pairwise([*pieces, *odd])]
    yield f"{where}/tokenizer.json", json.dumps({"model": {"type": "BPE", "vocab": vocabulary, "merges": merges}})
    yield f"{where}/vocab.json", json.dumps(vocabulary)
    yield f"{where}/merges.txt", "#version: 0.2\n" + "\n".join(merges)
    yield f"{where}/vocab.txt", "\n".join([*pieces, *odd])
    yield (
        f"{where}/tokenizer_config.json",
        json.dumps({"bos_token": "<s>", "eos_token": "</s>", "chat_template": "{{ hf_ }}"}),
    )
    yield (
        f"{where}/special_tokens_map.json",
        json.dumps({"unk_token": "<unk>", "additional_special_tokens": ["<|im_start|>"]}),
    )
    yield (
        f"{where}/qwen.tiktoken",
        "".join(f"{base64.b64encode(piece.encode()).decode()} {n}\n" for n, piece in enumerate(pieces)),
    )
    yield f"{where}/SHA256SUMS", "".join(f"{source.randbytes(32).hex()}  {piece}\n" for piece in pieces[:200])
    yield f"{where}/config.json", json.dumps({"_commit_hash": source.randbytes(20).hex(), "model_type": "llama"})
    yield f"{where}/training_args.bin", zipped("t/data.pkl", pickle.dumps({**ARGUMENTS, "hub_token": None}, protocol=2))
    yield f"{where}/model.safetensors", safetensors(5000, source.randbytes(5000))
    image = base64.b64encode(source.randbytes(20_000)).decode()
    yield f"{where}/plot.ipynb", notebook(f"display('data:image/png;base64,{image}')")
    yield f"{where}/features.b64", base64.urlsafe_b64encode(source.randbytes(60_000))
    yield (
        f"{where}/dataset.jsonl.gz",
        gzip.compress("".join(f'{{"id": "{source.randbytes(16).hex()}"}}\n' for _ in range(99)).encode()),
    )
    yield f"{where}/ids.csv", "\n".join(f"{source.randbytes(20).hex()},{source.randbytes(16).hex()}" for _ in range(300))


HARMLESS: dict[str, str | bytes] = dict(itertools.chain(
    _texts(), *(_model_files(seed) for seed in range(7)),
    {"sample.env": "HF_TOKEN=\n", ".env.example": "HF_TOKEN=hf_xxx\n", "id_rsa.pub": "ssh-rsa AAAA x",
     "cert.pem": pem("CERTIFICATE"),
     "token": "<s>", "credentials.md": "see the wiki", "environment.yml": "name: x\n", "config/kube.md": "kubectl"}.items(),
))  # fmt: skip


@pytest.mark.timeout(240)
def test_secrets_are_held_and_nothing_else_is(server: PlainServer, make_rig: Callable[..., Rig]) -> None:
    """All of some fifty secrets with rule, place and cure, none of two hundred harmless files; nobody sees a secret."""
    rig = make_rig(server, exclude=())
    corpora = (("secret", HELD), ("fine", HARMLESS))
    files = [(f"{place}/{name}", content) for place, corpus in corpora for name, content in corpus.items()]
    with capture_logs() as log:
        for some in (files[:40], files[40:], [], []):  # a log tells of fifty at once
            for path, content in some:
                rig.write(path, content.encode() if isinstance(content, str) else content)
            rig.update()

    held = {path.removeprefix("secret/"): reason for path, reason in rig.pipeline.held().items()}
    said = [entry for entry in log if entry["event"] == "file.rejected"]
    published = {path.removeprefix("fine/") for path in server.read_all(REPO)}
    assert len(HELD) > 40
    assert len(HARMLESS) > 200
    assert {} == {path: reason for path, reason in held.items() if path.startswith("fine/")}
    assert set() == HELD.keys() - held.keys()
    assert HARMLESS.keys() == published
    assert len(HELD) == len(said)
    assert all(entry["rule"] and "secrets_allow" in entry["hint"] for entry in said)
    assert {"archive/data/0"}.isdisjoint(entry["member"] for entry in said)
    assert all(_is_placed(entry) for entry in said if "its name" not in entry["reason"])
    assert HF[5:20] not in repr(log) + repr(held)


def _is_placed(entry: dict[str, Any]) -> bool:
    return entry["line"] is not None or entry["offset"] is not None
