"""The pooled connections to a model server: one pool for each event loop that asks it."""

import asyncio
import ssl

import aiohttp
import httpx

from retrieval.generation.address import ServerAddress

# Shorter than the 5 s after which common servers close an idle connection, so that none is taken as it closes.
KEEPALIVE_S = 3.0


class Sessions:
    """HTTP sessions, made on first use. A session belongs to its loop: it is used and closed there."""

    def __init__(self, address: ServerAddress, connect_timeout_s: float) -> None:
        self._address = address
        self._timeout = aiohttp.ClientTimeout(total=None, connect=connect_timeout_s, sock_connect=connect_timeout_s)
        # The same trust as the blocking client's, whatever the system keeps.
        self._tls: ssl.SSLContext | bool = httpx.create_ssl_context() if address.is_encrypted else True
        self._of_loop: dict[asyncio.AbstractEventLoop, aiohttp.ClientSession] = {}

    def here(self) -> aiohttp.ClientSession:
        """Return the running loop's session."""
        loop = asyncio.get_running_loop()
        session = self._of_loop.get(loop)
        if session is None or session.closed:
            self._forget_closed_loops()
            session = self._of_loop[loop] = self._made()
        return session

    async def close_here(self) -> None:
        """Close the running loop's session, and with it what is under way there."""
        session = self._of_loop.pop(asyncio.get_running_loop(), None)
        if session is not None:
            await session.close()

    def _made(self) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            # How many ask at once is the admission's business.
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEPALIVE_S, ssl=self._tls),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers={**self._address.headers, "Content-Type": "application/json"},
            timeout=self._timeout,
            proxy=self._address.proxy,
        )

    def _forget_closed_loops(self) -> None:
        for loop in [*self._of_loop]:
            if loop.is_closed():
                self._of_loop.pop(loop, None)
