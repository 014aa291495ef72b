"""What is taken for a secret, where it is found, and what merely looks like one. All secrets here are made up."""

import base64
import bz2
import contextlib
import gzip
import io
import itertools
import json
import lzma
import os
import pickle
import random
import sqlite3
import string
import struct
import tarfile
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.store.archives import MEMBER_BYTES, WHOLE_BYTES, unpack
from hubsync.store.scan import HEAD_BYTES, TEXT_BYTES, Scanner, scan_file
from hubsync.store.secrets import RULES, Secret, SecretRules, find_secret, judge_name


def letters(count: int, alphabet: str = string.ascii_letters + string.digits) -> str:
    return "".join(random.Random(7).choices(alphabet, k=count))


HF = "hf_" + letters(34, string.ascii_letters)
PEM = "-----BEGIN {}PRIVATE KEY-----"  # put together below, so that no scanner takes this file for a leak
SECRETS = {
    "hf": HF,
    "hf oauth": "hf_oauth_" + letters(30),
    "hf org": "api_org_" + letters(34),
    "aws": "AKIA" + letters(16, string.ascii_uppercase + "234567"),
    "aws secret": f'aws_secret_access_key = "{letters(40)}"',
    "github": "ghp_" + letters(36),
    "github fine": "github_pat_" + letters(22) + "_" + letters(59),
    "gitlab": "glpat-" + letters(20),
    "openai": "sk-proj-" + letters(48),
    "openai old": "sk-" + letters(48),
    "anthropic": "sk-ant-api03-" + letters(93),
    "slack": f"xoxb-{'1' * 12}-{'2' * 12}-{letters(24)}",
    "slack hook": "https://hooks.slack.com/services/T" + letters(9) + "/B" + letters(9) + "/" + letters(24),
    "google": "AIza" + letters(35),
    "gcp": json.dumps({"type": "service_account", "private_key_id": letters(40, "0123456789abcdef")}),
    "pem": PEM.format("RSA ") + "\nMIIEpAIBAAKCAQEA\n",
    "pem in json": json.dumps({"key": PEM.format("") + "\nMIIEpAIBAAKCAQEA\n"}),
    "openssh": PEM.format("OPENSSH ") + "\r\nb3BlbnNzaC1rZXk\r\n",
    "wandb": f"WANDB_API_KEY={letters(40, '0123456789abcdef')}",
    "netrc": f"machine api.wandb.ai\n  login user\n  password {letters(40)}\n",
    "npm": "npm_" + letters(36),
    "pypi": "pypi-AgEIcHlwaS5vcmc" + letters(60),
    "stripe": "sk_live_" + letters(24),
    "azure": f"AccountKey={letters(86)}==",
    "databricks": "dapi" + letters(32, "0123456789abcdef"),
    "replicate": "r8_" + letters(37),
    "kubernetes": f"client-key-data: {letters(80)}",
    "jwt": f"eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJ4IiwiYSI6MX0.{letters(86)}",
    "nvidia": "nvapi-" + letters(64),
    "groq": "gsk_" + letters(52),
    "comet": f"COMET_API_KEY={letters(25)}",
    "hub token of another Hub": f'"hub_token": "{letters(20)}"',
}


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
@pytest.mark.parametrize("around", ["{}", "key: {}\n", '{{"a": "{}"}}', "a,{},b", "('{}')", "x=1\\n{}"])
def test_a_secret_is_found_wherever_it_stands(secret: str, around: str) -> None:
    """At the beginning, in JSON, YAML, CSV and Python, and after a line break that JSON has escaped."""
    assert find_secret(around.format(secret).encode()) is not None


AFTER_LETTERS = {
    "colour": "12:00 \x1b[32m{}\x1b[0m\n",
    "reset": "\x1b[m{}",
    "cleared line": "\x1b[2K{}",
    "colour in a notebook": json.dumps({"text": ["\x1b[1;31m{}\x1b[0m\n"]}),
    "URL": "https://example.com/?a=1%26token%3D{}",
    "JSON": "\\u003d{}",
    "repr": "b'\\x0a{}'",
}


@pytest.mark.parametrize("around", AFTER_LETTERS.values(), ids=AFTER_LETTERS)
@pytest.mark.parametrize("secret", ["hf", "aws", "github", "openai", "anthropic", "gitlab", "slack", "jwt", "groq"])
def test_a_token_is_found_behind_what_ends_in_a_letter(secret: str, around: str) -> None:
    """As the code of a colour does in a log, and an escaped character."""
    assert find_secret(around.replace("{}", SECRETS[secret]).encode()) is not None


@pytest.mark.parametrize("secret", ["hf", "aws", "github", "openai", "anthropic", "slack"])
def test_a_token_in_a_database_is_found(tmp_path: Path, secret: str) -> None:
    """SQLite puts the length of a text right before it, which may be a letter."""
    with contextlib.closing(sqlite3.connect(tmp_path / "mlflow.db")) as database:
        database.execute("CREATE TABLE params (value TEXT)")
        database.execute("INSERT INTO params VALUES (?)", (SECRETS[secret],))
        database.commit()

    assert find_secret((tmp_path / "mlflow.db").read_bytes()) is not None


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("token", [HF, letters(12), SECRETS["aws"], SECRETS["openai old"]])
def test_a_token_in_a_pickle_is_found(protocol: int, token: str) -> None:
    """What stands before and after a string in a pickle, by any protocol, does not hide it; no token is no secret."""
    arguments = {"learning_rate": 1e-4, "hub_token": token, "push_to_hub": True}

    assert find_secret(pickle.dumps(arguments, protocol=protocol)) is not None
    if len(token) > 12:  # is known by its shape
        assert find_secret(pickle.dumps([token], protocol=protocol)) is not None
    assert find_secret(pickle.dumps(arguments | {"hub_token": None}, protocol=protocol)) is None


@pytest.mark.parametrize(
    "text",
    [
        "hf_" + "x" * 34,
        "ghp_" + "*" * 36,
        "hf_hub_download(repo_id)",
        "task-" + "a" * 60,
        PEM.format("RSA "),
        f'["{PEM.format("")}", "-----END"]',
        "-----BEGIN CERTIFICATE-----\nMIIEpAIBAAKCAQEA\n",
        "-----BEGIN PUBLIC KEY-----\nMIIEpAIBAAKCAQEA\n",
        '"hub_token": "<HUB_TOKEN>"',
        '"hub_token": null',
        "hub_token=training_args.hub_token, hub_model_id=x",
        "the machine learning login page asks for a password",
        "sha256:" + "0123456789abcdef" * 4,
        "oid sha256:" + "ab" * 32,
        "AKIA",
        "secret_access_key = os.environ['AWS_SECRET_ACCESS_KEY']",
    ],
)
def test_what_only_resembles_a_secret_is_none(text: str) -> None:
    """Placeholders, names, hashes, public keys, and the words that tokenizers know."""
    assert find_secret(text.encode()) is None


def test_content_of_models_holds_no_secret() -> None:
    """A vocabulary with its merges, base64 as in notebooks, hashes, and weights are let through."""
    source = random.Random(3)
    pieces = ["".join(source.choices(string.ascii_letters + "_-Ġ", k=source.randint(1, 12))) for _ in range(60_000)]
    vocabulary = {piece: number for number, piece in enumerate(pieces)} | {"hf_": 1, "sk-": 2, "AKIA": 3, "ghp_": 4}
    merges = [f"{one} {other}" for one, other in itertools.pairwise(pieces)]
    weights = source.randbytes(2_000_000)

    assert find_secret(json.dumps({"model": {"vocab": vocabulary, "merges": merges}}).encode()) is None
    assert find_secret(base64.b64encode(weights)) is None
    assert find_secret(base64.urlsafe_b64encode(weights)) is None
    assert find_secret("\n".join(f"{source.randbytes(32).hex()}  {piece}" for piece in pieces[:9999]).encode()) is None
    assert find_secret(weights) is None


@pytest.mark.parametrize(
    "path",
    [
        ".env", "prod.env", "run/.env", ".env.local", ".ENV", ".envrc", ".netrc", "_netrc", "id_rsa", "keys/id_ed25519",
        "a.p12", "k.PFX", ".git-credentials", ".aws/credentials", "home/.aws/credentials", "huggingface/token",
    ],
)  # fmt: skip
def test_a_file_may_be_a_secret_by_its_name(path: str) -> None:
    """Dotenv files, netrc, key files: whatever they hold, they are no part of a model."""
    assert judge_name(path) is not None


@pytest.mark.parametrize(
    "path",
    ["tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "token", "environment.yml", "id_rsa.pub", "env",
     ".env.example", "sample.env", "keys.json", "cert.pem", "credentials", "vocab.env.json", ".environment"],
)  # fmt: skip
def test_other_names_are_no_secret(path: str) -> None:
    """What a model consists of, public keys, and templates: their content decides."""
    assert judge_name(path) is None


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_every_rule_is_tried(rule: object) -> None:
    """Each row of the table is what finds some secret above."""
    assert rule.name in {found.rule for secret in SECRETS.values() if (found := find_secret(secret.encode()))}  # type: ignore[attr-defined]


@given(st.binary(max_size=4000))
def test_any_content_can_be_looked_through(content: bytes) -> None:
    """Nothing that a file holds makes it fail."""
    scanner = Scanner(len(content))
    scanner.feed(content)

    assert scanner.found is None or scanner.found.offset is not None


def test_an_allowed_file_is_named_by_pattern_or_by_hash() -> None:
    """A pattern is gitignore's, a hash is that of the file."""
    rules = SecretRules("block", ("keys/", "*.pem", "sha256:" + "ab" * 32))

    assert [True, True, False] == [rules.allows_path(path) for path in ("run/keys/a", "x/cert.pem", "a.json")]
    assert rules.allows_hash("ab" * 32)
    assert not rules.allows_hash("cd" * 32)
    assert not SecretRules().asks_for_hash


# --- in files


def scan(file: Path) -> Secret | None:
    with file.open("rb") as opened:
        return scan_file(opened.fileno(), file.stat().st_size)


@pytest.mark.parametrize("at", [0, 5_000, (1 << 20) - 20, (1 << 20) - 5000, 3_000_000])
def test_the_place_in_a_text_is_its_line(tmp_path: Path, at: int) -> None:
    """Also on the edge of two pieces, and far behind the beginning."""
    before = ("0123456789" * 7 + "\n") * (at // 71) + " " * (at % 71)
    (tmp_path / "log.txt").write_text(f"{before}{HF}\n" + "after\n" * 400_000)

    assert Secret("a Hugging Face token", at, at // 71 + 1) == scan(tmp_path / "log.txt")


def torch_file(content: dict, *, method: int = zipfile.ZIP_STORED, weights: int = 0) -> bytes:
    """Return what ``torch.save`` writes: a zip file with a pickle in it, behind weights (which take lzma long to pack)."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        archive.writestr("archive/data/0", os.urandom(weights), min(method, zipfile.ZIP_DEFLATED))
        archive.writestr("archive/data.pkl", pickle.dumps(content, protocol=2))
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
@pytest.mark.parametrize("weights", [10, WHOLE_BYTES + 1])
def test_the_place_in_a_zip_file_is_its_member(tmp_path: Path, method: int, weights: int) -> None:
    """A small member is looked into, packed or not, behind weights of any size."""
    (tmp_path / "training_args.bin").write_bytes(torch_file({"hub_token": HF}, method=method, weights=weights))

    found = scan(tmp_path / "training_args.bin")

    assert ("archive/data.pkl", None) == (found.member, found.line)
    assert f"byte {found.offset} of archive/data.pkl" == found.place
    assert HF[3:9] not in repr(found)


def tar_file(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return file.getvalue()


def test_a_member_may_be_a_secret_by_its_name(tmp_path: Path) -> None:
    """As a file of its own may, whatever it holds; examples are none."""
    (tmp_path / "code.zip").write_bytes(torch_file({}))
    (tmp_path / "code.tar").write_bytes(tar_file({"proj/.env.example": b"PASSWORD=", "proj/.env": b"PASSWORD=hunter2"}))

    assert scan(tmp_path / "code.zip") is None
    found = scan(tmp_path / "code.tar")
    assert (found.rule, found.place) == ("a dotenv file", "the name of proj/.env says so")


@pytest.mark.parametrize("weights", [10, WHOLE_BYTES + 1])
def test_the_place_in_a_tar_file_is_its_member(tmp_path: Path, weights: int) -> None:
    """As NeMo saves it: a small member behind weights of any size."""
    config = f"name: x\nhub:\n  token: {HF}\n".encode()
    (tmp_path / "model.nemo").write_bytes(tar_file({"./model.ckpt": os.urandom(weights), "./model_config.yaml": config}))
    (tmp_path / "fine.nemo").write_bytes(tar_file({"./model.ckpt": os.urandom(weights), "./model_config.yaml": b"name: x"}))

    found = scan(tmp_path / "model.nemo")

    assert ("./model_config.yaml", 3) == (found.member, found.line)
    assert scan(tmp_path / "fine.nemo") is None


PACKERS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lambda content: lzma.compress(content, preset=0),
    "lzma": lambda content: lzma.compress(content, lzma.FORMAT_ALONE, preset=0),
}


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())
@pytest.mark.parametrize("wrap", [lambda text: text, lambda text: tar_file({"run.sh": text})], ids=["text", "tar"])
def test_what_was_packed_is_looked_into(
    tmp_path: Path, wrap: Callable[[bytes], bytes], pack: Callable[[bytes], bytes]
) -> None:
    """A log that was rotated, or a directory that was packed; behind a megabyte of other things, and in a second stream."""
    filling = b"".join(b"step %d\n" % number for number in range(200_000))
    held = pack(wrap(filling + b"export HF_TOKEN=hf_" + b"Abcdefghij" * 4 + b"\n"))
    (tmp_path / "fine").write_bytes(pack(wrap(filling)))
    for name, content in (("one", held), ("two", pack(filling) + held)):
        (tmp_path / name).write_bytes(content)

        found = scan(tmp_path / name)

        assert found is not None
        assert found.place.endswith("of what it unpacks to")
    assert scan(tmp_path / "fine") is None


@pytest.mark.parametrize("pack", PACKERS.values(), ids=PACKERS.keys())
def test_hostile_packs_are_survived(tmp_path: Path, pack: Callable[[bytes], bytes]) -> None:
    """A bomb is unpacked up to the limit, what is cut or garbled up to there; endless empty streams come to an end."""
    token = b"hf_" + b"Abcdefghij" * 4
    bomb = pack(bytes(WHOLE_BYTES * 2) + token)
    hostile = {
        "bomb": bomb,
        "cut": bomb[: len(bomb) // 2],
        "header": bomb[:7],
        "garbled": bomb[:20] + os.urandom(5000),
        "streams": pack(b"") * 100_000 + pack(token),
    }
    for name, content in hostile.items():
        (tmp_path / name).write_bytes(content)

    assert [] == [name for name in hostile if scan(tmp_path / name)]


def zip_file(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


NESTED: dict[str, Callable[[bytes], bytes]] = {
    "a.zip/b.txt": lambda text: zip_file({"a.zip": zip_file({"b.txt": text})}),
    "a.tar/b.zip/c.txt": lambda text: zip_file({"a.tar": tar_file({"b.zip": zip_file({"c.txt": text})})}),
    "a.xz/what it unpacks to": lambda text: tar_file({"a.xz": lzma.compress(text)}),
    "what it unpacks to/a.zip/b.txt": lambda text: gzip.compress(tar_file({"a.zip": zip_file({"b.txt": text})})),
}


@pytest.mark.parametrize(("member", "wrap"), NESTED.items(), ids=NESTED.keys())
def test_what_was_packed_twice_is_looked_into(tmp_path: Path, member: str, wrap: Callable[[bytes], bytes]) -> None:
    """An archive within another one."""
    (tmp_path / "x").write_bytes(wrap(b"a\nhf_" + b"Abcdefghij" * 4 + b"\n" + b"filling " * 9000))
    (tmp_path / "fine").write_bytes(wrap(b"a\n" * 9000))

    found = scan(tmp_path / "x")

    assert (member, 2) == (found.member, found.line)
    assert scan(tmp_path / "fine") is None


def test_bombs_within_bombs_are_survived(tmp_path: Path) -> None:
    """All together no more is unpacked than of one archive, however deep."""
    content = bytes(MEMBER_BYTES)
    for _ in range(8):
        content = zip_file({f"{number}.zip": content for number in range(10)})
    (tmp_path / "x.zip").write_bytes(content)
    with (tmp_path / "x.zip").open("rb") as file:
        unpacked = sum(len(member) for _, member in unpack(file.fileno(), len(content)))

    assert unpacked <= WHOLE_BYTES


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_member_that_is_larger_than_it_claims_is_unpacked_no_further(tmp_path: Path, method: int) -> None:
    """The memory that it takes is that of the claim, however it was packed."""
    content, claim = bytes(16 * MEMBER_BYTES), 100
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", method) as archive:
        archive.writestr("a", content)
    sizes = [struct.pack("<L", size) for size in (len(content), claim)]
    checks = [struct.pack("<L", zlib.crc32(bytes(size))) for size in (len(content), claim)]
    bomb = packed.getvalue().replace(*sizes).replace(*checks)
    (tmp_path / "x.zip").write_bytes(bomb)

    tracemalloc.start()
    with (tmp_path / "x.zip").open("rb") as file:
        unpacked = [len(member) for _, member in unpack(file.fileno(), len(bomb))]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert [claim] == unpacked
    assert peak < 4 * MEMBER_BYTES  # the dictionary of lzma alone takes two


def test_a_bomb_that_took_the_whole_limit_is_unpacked_no_further(tmp_path: Path) -> None:
    """What it unpacks to may be a bomb again, of which nothing is unpacked any more."""
    packed = gzip.compress(gzip.compress(bytes(4 * WHOLE_BYTES)) + bytes(WHOLE_BYTES))
    (tmp_path / "x.gz").write_bytes(packed)
    with (tmp_path / "x.gz").open("rb") as file:
        unpacked = sum(len(member) for _, member in unpack(file.fileno(), len(packed)))

    assert WHOLE_BYTES == unpacked


def test_a_hostile_tar_file_is_survived(tmp_path: Path) -> None:
    """Lengths that are none, beyond the end, or endless give an answer."""
    good = tar_file({"a": b"x" * 600, "b": b"y"})
    for length in (
        b"77777777777\0",
        b"-7777777777\0",
        b"\xff" * 12,
        b"\x80" + bytes(11),
        b"           \0",
        b"00000000000\0",
    ):
        (tmp_path / "x.tar").write_bytes(good[:124] + length + good[136:] + bytes(WHOLE_BYTES))
        assert scan(tmp_path / "x.tar") is None


def test_a_hostile_zip_file_is_survived(tmp_path: Path) -> None:
    """A damaged, an encrypted, a cut and an endless one give an answer."""
    good = torch_file({"a": 1}, method=zipfile.ZIP_DEFLATED)
    encrypted = good.replace(b"PK\x03\x04\x14\x00\x00", b"PK\x03\x04\x14\x00\x01").replace(
        b"PK\x01\x02\x14\x03\x14\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01"
    )
    bomb = io.BytesIO()
    with zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(1 << 26))
    for content in (
        good[:-30],
        good[:40] + bytes(20) + good[60:],
        encrypted,
        bomb.getvalue(),
        b"PK",
        b"PK\x05\x06" + bytes(18),
    ):
        (tmp_path / "x.pt").write_bytes(content)
        assert scan(tmp_path / "x.pt") is None


def test_weights_are_hardly_looked_at(tmp_path: Path) -> None:
    """Of a large binary file only the beginning is read, of a large text more: the limit is a promise."""
    file = tmp_path / "w.safetensors"
    with file.open("wb") as sparse:
        sparse.write(bytes(100))
        sparse.truncate(1 << 40)
    scanner = Scanner(1 << 40)
    scanner.feed(bytes(HEAD_BYTES))

    assert scan(file) is None
    assert scanner.is_done
    text = Scanner(1 << 40)
    text.feed(b" " * HEAD_BYTES)
    assert not text.is_done
    assert TEXT_BYTES > WHOLE_BYTES > HEAD_BYTES


@pytest.mark.parametrize("size", [1 << 16, HEAD_BYTES, 4 * HEAD_BYTES])
def test_the_limit_does_not_depend_on_who_reads(size: int) -> None:
    """A reader's pieces may be larger than what is looked at: the rest of a piece is none of the scanner's business."""
    token = b"hf_" + b"aB3dE5gH7jK9mN1pQ2rS4tU6vW8xY0zAb1"
    inside, outside = bytearray(4 * HEAD_BYTES), bytearray(4 * HEAD_BYTES)
    inside[HEAD_BYTES - 100 : HEAD_BYTES - 100 + len(token)] = token
    outside[2 * HEAD_BYTES : 2 * HEAD_BYTES + len(token)] = token

    found = {}
    for name, content in (("inside", inside), ("outside", outside)):
        scanner = Scanner(1 << 40)
        for at in range(0, len(content), size):
            scanner.feed(memoryview(content)[at : at + size])
        found[name] = scanner.found and scanner.found.offset

    assert found == {"inside": HEAD_BYTES - 100, "outside": None}
