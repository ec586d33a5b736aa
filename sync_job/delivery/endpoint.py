"""One attempt: a request on the shared session, and what came of it as an `Answer`; nothing is retried here.

The one exception: a 401 is answered with another token where tokens come from a login, since it was surely not
applied. Which token, and when, is left to `auth.py`; what https is made with, to `tls.py`.
"""

import asyncio
import base64
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any
from urllib.parse import urlencode
from weakref import WeakSet

import aiohttp
import structlog
from multidict import CIMultiDict
from yarl import URL

from sync_job.config import EndpointSettings
from sync_job.delivery import tls, wire
from sync_job.delivery.auth import Token, Tokens
from sync_job.delivery.verdict import Answer, Failure

CONNECT_S = 10.0
_LARGEST_ANSWER_BYTES = 1 << 20
_MASK = "***"

_log = structlog.get_logger()


class _Connection:
    """Which connection a request got; until it has one, nothing of it was sent."""

    __slots__ = ("made", "reused")

    def __init__(self) -> None:
        self.made = False
        self.reused = False


# A context variable, because a connector is not told for whom it connects. aiohttp's tracing would say the same at
# four times the price: it builds an object for each of a request's dozen events.
_CONNECTION: ContextVar[_Connection] = ContextVar("_CONNECTION")


class HttpEndpoint:
    """The platform over HTTP; one for all workers.

    `shown_headers` are those of each request, without Authorization and with secrets masked.
    """

    def __init__(self, session: aiohttp.ClientSession, settings: EndpointSettings) -> None:
        token = settings.token
        sender = wire.Sender(settings.operator, int(token.get_secret_value()) if token else None, settings.site_code)
        more = settings.headers | {one.name: one.value.get_secret_value() for one in settings.secret_headers}
        typed = wire.headers(settings.format)
        self.url = URL(settings.base_url + wire.PATH)
        self.shown_headers = typed | settings.headers | {one.name: _MASK for one in settings.secret_headers}
        self.tokens: Tokens | None = None
        self._session = session
        self._encode = wire.encoder(settings.format, sender)
        self._proxied, for_proxy = _proxied(settings)
        self._plain = CIMultiDict(typed | more | for_proxy)
        self._headers = self._plain
        self._headers_for: Token | None = None
        self._login_url = URL(settings.base_url + settings.auth.login_path)
        self._login_headers = CIMultiDict(wire.headers("form") | more | for_proxy)
        if settings.auth.kind == "bearer" and settings.auth.bearer:
            self._headers = _authorised(self._plain, settings.auth.bearer.get_secret_value())
        elif settings.auth.kind == "password":
            self.tokens = Tokens(settings.auth, settings.operator, self._log_in, clock=time.monotonic)

    def body(self, client: int, sent: int) -> bytes:
        """Return the body that states *sent* of *client*."""
        return self._encode(client, sent)

    async def attempt(self, client: int, sent: int) -> Answer:
        """Send one request and return what came of it; no failure of the network raises."""
        if self.tokens is None:
            return await self._send(client, sent, self._headers)
        token = self.tokens.ready() or await self.tokens.obtain()
        if isinstance(token, Answer):
            return token
        answer = await self._send(client, sent, self._headers_with(token))
        if answer.status != 401:
            return answer
        token = await self.tokens.instead_of(token)
        if isinstance(token, Answer):
            return token
        answer = await self._send(client, sent, self._headers_with(token))
        if answer.status == 401 and self.tokens.expired(token):
            return Answer(failure=Failure.NOT_CONNECTED, detail="the token expired on its way, twice")
        return answer

    async def _send(self, client: int, sent: int, headers: CIMultiDict[str]) -> Answer:
        connection = _Connection()
        _CONNECTION.set(connection)
        try:
            async with self._session.post(
                self.url, data=self._encode(client, sent), headers=headers, allow_redirects=False, **self._proxied
            ) as response:
                body = await _read(response)
                if response.status == 200:
                    return _replied(wire.decode(body, response.content_type), connection.reused)
                heads = response.headers
                return Answer(
                    response.status,
                    detail=heads.get("Location", "")[:200],
                    retry_after=heads.get("Retry-After"),
                    reused=connection.reused,
                )
        except Exception as exc:  # noqa: BLE001 - each is told apart below, and what is not of the network goes on
            return _broken(exc, connection)

    async def _log_in(self, form: dict[str, str]) -> tuple[Answer, bytes]:
        """Ask for a token, and return what came of it and the answer's body."""
        connection = _Connection()
        _CONNECTION.set(connection)
        try:
            async with self._session.post(
                self._login_url,
                data=urlencode(form).encode(),
                headers=self._login_headers,
                allow_redirects=False,
                **self._proxied,
            ) as response:
                body = await _read(response)
                heads = response.headers
                return Answer(
                    response.status, detail=heads.get("Location", "")[:200], retry_after=heads.get("Retry-After")
                ), body
        except Exception as exc:  # noqa: BLE001 - each is told apart below, and what is not of the network goes on
            return _broken(exc, connection), b""

    def _headers_with(self, token: Token) -> CIMultiDict[str]:
        if token is not self._headers_for:
            self._headers, self._headers_for = _authorised(self._plain, token.access), token
        return self._headers


@lru_cache(maxsize=256)  # nearly all answers are the same
def _replied(reply: wire.Reply | None, reused: bool) -> Answer:
    return Answer(200, reply, reused=reused)


def _authorised(headers: CIMultiDict[str], token: str) -> CIMultiDict[str]:
    return CIMultiDict(headers, Authorization=f"Bearer {token}")


def _proxied(settings: EndpointSettings) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what leads requests through the proxy, and the headers that plain requests carry for it.

    Over https the proxy's credentials go with CONNECT alone: a header of the request would reach the platform.
    """
    if not settings.proxy:
        return {}, {}
    headers = {}
    if settings.proxy_auth:
        coded = base64.b64encode(settings.proxy_auth.get_secret_value().encode()).decode()
        headers["Proxy-Authorization"] = f"Basic {coded}"
    if settings.base_url.startswith("https:"):
        return {"proxy": URL(settings.proxy), "proxy_headers": headers}, {}
    return {"proxy": URL(settings.proxy)}, headers


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, as far as an answer of the platform can be long."""
    content = response.content
    body = await content.readany()
    while not content.at_eof():  # hardly ever: an answer of the platform fits into one packet
        body += await content.readany()
        if len(body) > _LARGEST_ANSWER_BYTES:
            response.close()
            break
    return body


def _broken(exc: Exception, connection: _Connection) -> Answer:
    """Return what *exc*, raised by aiohttp, says of the request; anything else is a bug and raised again."""
    if isinstance(exc, aiohttp.ClientHttpProxyError):
        # The proxy's own answer, to CONNECT: there was no way to the endpoint yet.
        if exc.status == 407:
            return Answer(407)
        after = exc.headers.get("Retry-After") if exc.headers else None
        said = f"the proxy answered HTTP {exc.status} {exc.message}"[:200]
        return Answer(failure=Failure.NOT_CONNECTED, detail=said, retry_after=after)
    alert = tls.unwelcome(exc)
    if alert:
        detail = f"the endpoint does not accept our certificate, or misses one ({alert}); check [endpoint.tls]"
        return Answer(failure=Failure.NOT_AUTHORISED, detail=f"{detail} certificate and key", reused=connection.reused)
    return Answer(failure=_failure(exc, made=connection.made), detail=_detail(exc), reused=connection.reused)


def _failure(exc: Exception, *, made: bool) -> Failure:
    if not isinstance(exc, aiohttp.ClientError | OSError | TimeoutError | asyncio.IncompleteReadError):
        raise exc
    if not made:
        # Once connected, the certificate was accepted: TLS that breaks later may break behind a request that was
        # applied. Before that nothing was sent, whatever went wrong.
        return Failure.CERTIFICATE if isinstance(exc, aiohttp.ClientSSLError | ssl.SSLError) else Failure.NOT_CONNECTED
    if isinstance(exc, aiohttp.ClientConnectionResetError):
        return Failure.NOT_WRITTEN
    return Failure.TIMEOUT if isinstance(exc, TimeoutError) else Failure.RESET


def _detail(exc: Exception) -> str:
    return str(exc)[:200] or type(exc).__name__


class _Connector(aiohttp.TCPConnector):
    """Tells each request whether it has a connection, and whether that is an old one."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self._used: WeakSet[Any] = WeakSet()

    async def connect(self, *request: Any, **more: Any) -> Any:
        """Return a connection as aiohttp does, and note which one it is."""
        found = await super().connect(*request, **more)
        connection = _CONNECTION.get()
        connection.made = True
        connection.reused = found.protocol in self._used
        self._used.add(found.protocol)
        return found


@asynccontextmanager
async def connected(
    settings: EndpointSettings, *, max_concurrency: int, timeout_s: float
) -> AsyncIterator[HttpEndpoint]:
    """Yield the endpoint on a session of its own; concurrency is the limiter's, so the connector never queues.

    Raises:
        ConfigError: when [endpoint.tls] names files that cannot be used.
    """
    if settings.in_the_clear:
        _log.warning("endpoint.plain_http", base_url=settings.base_url)
    context = tls.context(settings)
    async with aiohttp.ClientSession(
        connector=_Connector(
            # One more than there are workers: a token that is renewed in the background waits for none of them.
            limit=max_concurrency + (settings.auth.kind == "password"),
            limit_per_host=0,
            keepalive_timeout=15,
            ttl_dns_cache=300,
            ssl=context or True,
        ),
        # Affinity cookies would pin all load to one back end.
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers={"Accept-Encoding"},
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s)),
        trust_env=False,
    ) as session:
        endpoint = HttpEndpoint(session, settings)
        try:
            yield endpoint
        finally:
            if endpoint.tokens is not None:
                await endpoint.tokens.close()
