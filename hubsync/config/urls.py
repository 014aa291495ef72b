"""Which endpoint URLs are accepted: an allow-list, since a URL goes to git, to git-lfs and to an HTTP client. Pure.

Control characters in URLs have made credential helpers answer for the wrong host
(https://nvd.nist.gov/vuln/detail/CVE-2024-52006), and a token in a URL is written into configs and logs.
"""

import ipaddress
import re

_URL = re.compile(
    r"(?P<scheme>[A-Za-z]+)://"
    r"(?P<host>[A-Za-z0-9](?:[A-Za-z0-9._-]{0,251}[A-Za-z0-9])?|\[[0-9A-Fa-f:.]{2,45}\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/[A-Za-z0-9~_-][A-Za-z0-9._~-]*)*)/?"
)
URL_PATTERN = "^https?://[^@?#\\s]+$"
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LARGEST_PORT = 65_535


def parse_url(value: object) -> str:
    """Return the URL in *value* in one spelling, without a slash at its end; raise ValueError with the cure."""
    match = _URL.fullmatch(value) if isinstance(value, str) else None
    if match is None:
        raise ValueError(_find_fault(value))

    scheme, host, port = match["scheme"].lower(), match["host"].lower(), int(match["port"] or 0)
    if scheme not in _DEFAULT_PORTS:
        raise ValueError('must start with "https://"; only http and https are spoken')
    if match["port"] and not 1 <= port <= _LARGEST_PORT:
        raise ValueError("has a port outside 1-65535")
    if host.startswith("["):
        host = f"[{_parse_ipv6(host[1:-1])}]"

    explicit_port = f":{port}" if port and port != _DEFAULT_PORTS[scheme] else ""
    return f"{scheme}://{host}{explicit_port}{match['path']}"


def is_plain_http_abroad(url: str) -> bool:
    """Tell whether a token sent to *url*, as ``parse_url`` returned it, could be read on the way."""
    match = _URL.fullmatch(url)
    return match is not None and match["scheme"] == "http" and not _is_loopback(match["host"])


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True

    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _parse_ipv6(text: str) -> str:
    try:
        return ipaddress.IPv6Address(text).compressed
    except ValueError:
        raise ValueError("has a host that is no IPv6 address") from None


def _find_fault(value: object) -> str:
    if isinstance(value, str) and "@" in value:
        return "must not hold a user, password or token; take it out (and revoke it) and set token = { file = ... }"
    if isinstance(value, str) and ("?" in value or "#" in value):
        return 'must not hold a query or fragment; end it before the "?" or "#"'

    return 'must be a plain URL: scheme, host, optional port and path; write e.g. "https://huggingface.co"'
