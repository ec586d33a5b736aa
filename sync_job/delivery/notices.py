"""Posts notifications: none raises, none takes longer than it may, and none tells where it went but for the host.

Whoever is told of runs is not the platform: https is verified by the system's certificates, and `HTTPS_PROXY` is used.
"""

import asyncio
import contextlib
import os
import socket
import ssl
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from threading import Thread
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import tenacity
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

_TRIES = 2
_LONGEST_ANSWER_BYTES = 2000


@dataclass(frozen=True)
class Notice:
    """What is posted where; the address is a secret."""

    url: str = field(repr=False)
    body: bytes
    content_type: str

    @property
    def host(self) -> str:
        """What of the address may be shown."""
        parts = urlsplit(self.url)
        return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}"


@dataclass(frozen=True)
class Said:
    """What came back: a status, or what went wrong in *why*; "" for nothing."""

    status: int | None = None
    why: str = ""
    body: str = ""


class _AgainError(Exception):
    """It may go better the next time."""

    def __init__(self, said: Said) -> None:
        super().__init__(said.why)
        self.said = said


def behind(url: str, more: str) -> str:
    """Return *url* with *more* at the end of its path."""
    whole = URL(url, encoded=True)
    return str(whole.with_path(whole.raw_path.rstrip("/") + more, encoded=True, keep_query=True))


async def post(notices: Sequence[Notice], timeout_s: float) -> list[Said]:
    """Post all of them at once, each twice at most, within *timeout_s*, and return what came of each."""
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, resolver=_Resolver(), force_close=True),
        cookie_jar=aiohttp.DummyCookieJar(),
        timeout=aiohttp.ClientTimeout(total=0.45 * timeout_s),
        trust_env=False,
    ) as session:
        return await asyncio.gather(*(_post(session, one, timeout_s) for one in notices))


async def _post(session: aiohttp.ClientSession, notice: Notice, timeout_s: float) -> Said:
    policy = tenacity.AsyncRetrying(
        stop=tenacity.stop_after_attempt(_TRIES),
        wait=tenacity.wait_fixed(min(1.0, 0.1 * timeout_s)),
        retry=tenacity.retry_if_exception_type(_AgainError),
        sleep=asyncio.sleep,
        reraise=True,
    )
    try:
        async with asyncio.timeout(timeout_s):
            found: Said = await policy(_once, session, notice)
            return found
    except _AgainError as last:
        return last.said
    except TimeoutError:
        return Said(why=f"no answer within {timeout_s:g} s")


async def _once(session: aiohttp.ClientSession, notice: Notice) -> Said:
    try:
        async with session.post(
            notice.url,
            data=notice.body,
            headers={"Content-Type": notice.content_type, "User-Agent": "consent-sync"},
            allow_redirects=False,
            proxy=_proxy(notice.url),
        ) as response:
            body = (await response.content.read(_LONGEST_ANSWER_BYTES)).decode("utf-8", "replace")
    except (aiohttp.ClientError, OSError, ValueError) as exc:
        said = Said(why=_why(exc))
        if isinstance(exc, aiohttp.ClientSSLError | ssl.SSLError | ValueError):
            return said  # it will not go better
        raise _AgainError(said) from None
    status = response.status
    if 200 <= status < 300:
        return Said(status, body=body)
    if 300 <= status < 400:
        return Said(
            status, f"a redirect (HTTP {status}), which is not followed: it would carry a secret elsewhere", body
        )
    said = Said(status, f"HTTP {status}", body)
    if status == 429 or status >= 500:
        raise _AgainError(said)
    return said


def _why(exc: Exception) -> str:
    """Return what went wrong in words of ours: those of the library show the whole address."""
    if isinstance(exc, TimeoutError):
        return "no answer in time"
    if isinstance(exc, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        inner = getattr(exc, "certificate_error", exc)
        return f"its certificate is not one to trust ({getattr(inner, 'verify_message', '') or 'not verified'})"
    if isinstance(exc, aiohttp.ClientConnectorDNSError):
        return "no such host"
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        return f"the proxy answered HTTP {exc.status}"
    if isinstance(exc, aiohttp.ClientSSLError | ssl.SSLError):
        return "no TLS connection"
    number = getattr(exc, "errno", None)
    if number:
        return f"no connection ({os.strerror(number)})" if number > 0 else "no connection"
    return f"the connection broke ({type(exc).__name__})"


def _proxy(url: str) -> str | None:
    """Return the proxy that the environment names for *url*; none where it names none."""
    parts = urlsplit(url)
    if urllib.request.proxy_bypass(parts.netloc.rpartition("@")[2]):
        return None
    return urllib.request.getproxies().get(parts.scheme)


class _Resolver(AbstractResolver):
    """Looks names up in a thread that nobody waits for: one that hangs would hold up the end of the process."""

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Return the addresses of *host*."""
        loop = asyncio.get_running_loop()
        found: asyncio.Future[list[Any]] = loop.create_future()

        def tell(call: Callable[[Any], None], value: object) -> None:
            def settle() -> None:
                if not found.done():
                    call(value)

            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(settle)

        def look() -> None:
            try:
                tell(found.set_result, socket.getaddrinfo(host, port, family, socket.SOCK_STREAM))
            except OSError as exc:
                tell(found.set_exception, exc)

        Thread(target=look, daemon=True, name="notice").start()
        return [
            ResolveResult(
                hostname=host, host=str(to[0]), port=int(to[1]), family=kind, proto=proto, flags=socket.AI_NUMERICHOST
            )
            for kind, _, proto, _, to in await found
        ]

    async def close(self) -> None:
        """Do nothing: there is nothing to release."""
