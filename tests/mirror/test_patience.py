"""What the client of all Hubs knows of them: which token belongs where, and no more tokens than are in use."""

from hubsync.mirror.patient import _TOKENS, Patience

ONE, OTHER, CDN = ("one.example", 443), ("other.example", 8443), ("cdn.example", 443)


def test_a_token_that_was_replaced_is_forgotten_in_time() -> None:
    """Tokens of an hour's life do not pile up over months; those of now stay with their own Hubs."""
    patience = Patience()
    patience.set("https://other.example:8443", 5.0, "other")
    for number in range(1000):
        patience.set("https://one.example", 30.0, f"token-{number}")
        patience.set("https://one.example", 30.0, "second endpoint")

    assert _TOKENS + 1 == sum(map(len, patience._tokens.values()))
    for token in ("token-999", "token-998", "second endpoint"):
        assert [True, False, False] == [patience.may_tell(token, *place) for place in (ONE, OTHER, CDN)]
    assert [False, True, False] == [patience.may_tell("other", *place) for place in (ONE, OTHER, CDN)]
    assert patience.may_tell("a signature of storage", *CDN)
