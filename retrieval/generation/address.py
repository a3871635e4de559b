"""Where a model server is, and the key that it takes."""

import json
import os
import re
from base64 import b64encode
from collections.abc import Iterator
from urllib.request import getproxies, proxy_bypass

import httpx

from backends.errors import InvalidSettings

_VERSION = re.compile(r"/v[0-9]+$")


class ServerAddress:
    """An OpenAI-compatible base URL, often ending in /v1, with what goes into each request's headers.

    `name` is its host and port, for messages: neither it nor `url` holds a password. `proxy` is the URL of the proxy
    that the environment names for it.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        """Raise InvalidSettings for a URL, a key or a proxy that no request can be made with."""
        given = _checked_url(url)
        key = _checked_key(api_key)
        self._secret = _any_of({form for secret in _secrets(key, given) for form in _forms(secret)})
        self._base = given.copy_with(username=None, password=None, path=given.path.rstrip("/"))
        self.name = given.netloc.decode("ascii")
        self.is_encrypted = given.scheme == "https"
        # A proxy that compresses holds pieces back.
        self.headers = {"Accept-Encoding": "identity"} | _authorization(key, given)
        self.proxy = _proxy_for(given)

    @property
    def url(self) -> str:
        return str(self._base)

    def blocking_client(self, timeout_s: float = 5.0) -> httpx.Client:
        """Return a client for small questions, by this address's own rule for proxies and the usual certificates."""
        return httpx.Client(
            headers=self.headers,
            proxy=self.proxy,
            trust_env=False,
            verify=httpx.create_ssl_context(),
            timeout=timeout_s,
        )

    def at(self, endpoint: str) -> str:
        """Return the URL of an endpoint below the base."""
        return str(self._base.copy_with(path=f"{self._base.path.rstrip('/')}/{endpoint}"))

    def beside(self, endpoint: str) -> str:
        """Return the URL of an endpoint that is no part of OpenAI's API: beside /v1, not below it."""
        root = _VERSION.sub("", self._base.path.rstrip("/"))
        return str(self._base.copy_with(path=f"{root}/{endpoint}"))

    def without_secrets(self, text: str) -> str:
        """Mask key and password: servers repeat what they refuse. What was shortened may hold half of one."""
        return self._secret.sub("***", text) if self._secret else text


def _authorization(key: str, url: httpx.URL) -> dict[str, str]:
    if key:
        return {"Authorization": f"Bearer {key}"}
    if url.userinfo:
        return {"Authorization": f"Basic {_basic(url)}"}
    return {}


def _basic(url: httpx.URL) -> str:
    return b64encode(f"{url.username}:{url.password}".encode()).decode("ascii")


def _secrets(key: str, url: httpx.URL) -> Iterator[str]:
    """Yield what must not be told: a user without a password is a token."""
    yield key
    if url.userinfo:
        user, _, password = url.userinfo.decode("ascii").partition(":")
        yield from (_basic(url), url.password or url.username, password or user)


def _forms(secret: str) -> Iterator[str]:
    """Yield a secret as it is, and as JSON may write it."""
    written = json.dumps(secret)[1:-1]
    yield from (secret, written, written.replace("/", "\\/"))


def _any_of(secrets: set[str]) -> re.Pattern[str] | None:
    """Return what finds them: the longest first, since one may be part of another."""
    longest_first = sorted(secrets - {""}, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, longest_first))) if longest_first else None


def _proxy_for(url: httpx.URL) -> str | None:
    """Return the proxy that the environment names; raises InvalidSettings for one that speaks no HTTP."""
    if proxy_bypass(url.netloc.decode("ascii")):
        return None
    proxies = getproxies()
    kind = url.scheme if proxies.get(url.scheme) else "all"
    proxy = proxies.get(kind)
    if not proxy:
        return None
    proxy = proxy if "://" in proxy else f"http://{proxy}"
    if not _is_http(_parsed(proxy)):
        lower = f"{kind}_proxy"
        variable = lower if lower in os.environ else lower.upper()
        raise InvalidSettings(variable, "found no http proxy; needed, for example, http://host:3128")
    return proxy


def _checked_url(url: str) -> httpx.URL:
    parsed = _parsed(url)
    if not _is_http(parsed):
        raise InvalidSettings("generator_url", "found no http address; needed, for example, http://host:8000/v1")
    return parsed


def _parsed(url: str) -> httpx.URL:
    try:
        return httpx.URL(url)
    except httpx.InvalidURL:
        return httpx.URL()


def _is_http(url: httpx.URL) -> bool:
    return url.scheme in ("http", "https") and bool(url.host)


def _checked_key(key: str | None) -> str:
    """Return the key as a header can carry it; the message never repeats it."""
    stripped = (key or "").strip()
    if not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise InvalidSettings("generator_api_key", "found a space or a character that is not ASCII")
    return stripped
