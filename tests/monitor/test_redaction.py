import base64
import json
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubsync.monitor.redact import MASK, Redactor, is_secret_name, redact

TOKEN = "hf_" + "Ab3" * 11 + "x"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"token {TOKEN} refused", f"token {MASK} refused"),
        (f"\\n{TOKEN}\\n", f"\\n{MASK}\\n"),
        ("api_org_abcdefghijklmn", MASK),
        ("hf_oauth_eyJhbGciOi.x-y_z", MASK),
        ("Authorization: Bearer s3cr3t-of-a-proxy", f"Authorization: Bearer {MASK}"),
        ("{'authorization': 'Basic dXNlcjpwYXNz'}", f"{{'authorization': 'Basic {MASK}'}}"),
        ("[(b'Authorization', b'Bearer abcdefgh')]", f"[(b'Authorization', b'Bearer {MASK}')]"),
        ('\\"Authorization\\":\\"opaque123\\"', f'\\"Authorization\\":\\"{MASK}\\"'),
        ("https://user:p4ss@hub.example/x", f"https://{MASK}@hub.example/x"),
        ("https://onlytoken@hub.example/x", f"https://{MASK}@hub.example/x"),
        ("https://u:p@ss'w@hub.example/x", f"https://{MASK}@hub.example/x"),
        ("?X-Amz-Signature=0a1b&X-Amz-Date=2026", f"?X-Amz-Signature={MASK}&X-Amz-Date=2026"),
        ("\\u0026X-Amz-Credential=AK%2F1\\u0026z=1", f"\\u0026X-Amz-Credential={MASK}\\u0026z=1"),
        ("?Expires=1&Signature=abc~-_&Key-Pair-Id=K", f"?Expires=1&Signature={MASK}&Key-Pair-Id=K"),
        ("/lock?token=abc&x=1", f"/lock?token={MASK}&x=1"),
        ('"-----BEGIN RSA PRIVATE KEY-----\\nMIIE\\n-----END RSA PRIVATE KEY-----\\n"', f'"{MASK}"'),
    ],
)
def test_credentials_are_known_by_their_shape(text: str, expected: str) -> None:
    """Nothing has to be registered for the common shapes; what stands around them stays."""
    assert expected == redact(text)
    assert expected == redact(expected)


@pytest.mark.parametrize(
    "text",
    [
        "checkpoint-500/model-00001-of-00002.safetensors",
        "https://huggingface.co/acme/llama-sft/commit/9d5940",
        "mail admin@example.org, see http://x/y@z",
        "basic authentication failed",
        "HF_HUB_OFFLINE=1 hf_hub_url hf_xet",
        "oid 2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824",
    ],
)
def test_other_text_stays(text: str) -> None:
    """Paths, URLs, oids and prose are what the log is for."""
    assert text == redact(text)


@pytest.mark.parametrize("user", ["", "a", "ab", "user", "__token__", "hf_user"])
@pytest.mark.parametrize("secret", ["tok-1234567", 'we"ird\\p\nass+/ü', "s p a c e s"])
def test_a_registered_secret_goes_in_every_spelling(secret: str, user: str) -> None:
    """The value itself, escaped, in a URL and in base64 behind any user name."""
    redactor = Redactor()
    redactor.register(secret)
    basic = f"{user}:{secret}".encode()
    digits = base64.b64encode(basic).decode()
    spelt = [
        secret,
        json.dumps(secret),
        repr(secret),
        quote(secret, safe=""),
        digits,
        base64.urlsafe_b64encode(basic).decode(),
    ]

    assert [] == [text for text in spelt if MASK not in redactor.redact(f"x {text} y")]
    assert secret[:8] not in redactor.redact(secret)


@given(secret=st.binary(min_size=6, max_size=40), user=st.binary(max_size=10), after=st.binary(max_size=4))
def test_base64_keeps_no_part_of_a_secret(secret: bytes, user: bytes, after: bytes) -> None:
    """At most the digits that a neighbour shares survive: one byte's worth at each end."""
    redactor = Redactor()
    text = secret.decode("latin-1").strip()
    redactor.register(text)
    encoded = base64.b64encode(user + text.encode() + after).decode()

    expected = len(text) >= 6

    assert expected == (MASK in redactor.redact(encoded))


@pytest.mark.parametrize("secret", ["", "   ", "main", "a\n"])
def test_short_words_are_no_secrets(secret: str) -> None:
    """An empty token file must not turn the log into masks."""
    redactor = Redactor()
    redactor.register(secret)

    assert "the main branch" == redactor.redact("the main branch")


def test_a_token_file_may_end_with_a_newline() -> None:
    """The newline is not part of the secret."""
    redactor = Redactor()
    redactor.register("opaque-token\n")

    assert f"({MASK})" == redactor.redact("(opaque-token)")


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("Authorization", "proxy-authorization", "hub_token", "token", "password", "Set-Cookie"), True),
        (("tokens", "path", "secrets", "tokenizer", "key"), False),
    ],
)
def test_names_tell_credentials(names: tuple[str, ...], *, expected: bool) -> None:
    """A value under such a name is masked whatever it looks like."""
    assert {expected} == set(map(is_secret_name, names))
