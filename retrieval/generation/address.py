"""Where a model server is, and the key that it takes."""

import re
from base64 import b64encode

import httpx

from backends.errors import InvalidSettings

_VERSION = re.compile(r"/v[0-9]+$")


class ServerAddress:
    """An OpenAI-compatible base URL, often ending in /v1, with what goes into each request's headers.

    `name` is its host and port, for messages: neither it nor `url` holds a password.
    """

    def __init__(self, url: str, api_key: str | None) -> None:
        """Raise InvalidSettings for a URL or a key that no request can be made with."""
        given = _checked_url(url)
        self._key = _checked_key(api_key)
        self._base = given.copy_with(username=None, password=None, path=given.path.rstrip("/"))
        self.name = given.netloc.decode("ascii")
        self.is_encrypted = given.scheme == "https"
        # A proxy that compresses holds pieces back.
        self.headers = {"Accept-Encoding": "identity"} | _authorization(self._key, given)

    @property
    def url(self) -> str:
        return str(self._base)

    def at(self, endpoint: str) -> str:
        """Return the URL of an endpoint below the base."""
        return str(self._base.copy_with(path=f"{self._base.path.rstrip('/')}/{endpoint}"))

    def beside(self, endpoint: str) -> str:
        """Return the URL of an endpoint that is no part of OpenAI's API: beside /v1, not below it."""
        root = _VERSION.sub("", self._base.path.rstrip("/"))
        return str(self._base.copy_with(path=f"{root}/{endpoint}"))

    def without_key(self, text: str) -> str:
        """Servers repeat a key that they refuse."""
        return text.replace(self._key, "***") if self._key else text


def _authorization(key: str, url: httpx.URL) -> dict[str, str]:
    if key:
        return {"Authorization": f"Bearer {key}"}
    if url.userinfo:
        return {"Authorization": f"Basic {b64encode(f'{url.username}:{url.password}'.encode()).decode('ascii')}"}
    return {}


def _checked_url(url: str) -> httpx.URL:
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise InvalidSettings("generator_url", "found no http address; needed, for example, http://host:8000/v1")
    return parsed


def _checked_key(key: str | None) -> str:
    """Return the key as a header can carry it; the message never repeats it."""
    stripped = (key or "").strip()
    if not (stripped.isascii() and stripped.isprintable()) or " " in stripped:
        raise InvalidSettings("generator_api_key", "found a space or a character that is not ASCII")
    return stripped
