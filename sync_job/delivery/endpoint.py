"""One attempt: a request on the shared session, and what came of it as an `Answer`; nothing is retried here."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace

import aiohttp
from yarl import URL

from sync_job.config import EndpointSettings
from sync_job.delivery import wire
from sync_job.delivery.verdict import Answer, Failure

CONNECT_S = 10.0
_LARGEST_ANSWER_BYTES = 1 << 20


class HttpEndpoint:
    """The platform over HTTP; one for all workers."""

    def __init__(self, session: aiohttp.ClientSession, settings: EndpointSettings) -> None:
        token = settings.token
        sender = wire.Sender(settings.operator, int(token.get_secret_value()) if token else None, settings.site_code)
        self.url = URL(settings.base_url + wire.PATH)
        self.headers = wire.headers(settings.format)
        self._session = session
        self._encode = wire.encoder(settings.format, sender)

    def body(self, client: int, sent: int) -> bytes:
        """Return the body that states *sent* of *client*."""
        return self._encode(client, sent)

    async def attempt(self, client: int, sent: int) -> Answer:
        """Send one request and return what came of it; no failure of the network raises."""
        trace = SimpleNamespace(reused=False, connected=False)
        try:
            async with self._session.post(
                self.url,
                data=self._encode(client, sent),
                headers=self.headers,
                allow_redirects=False,
                trace_request_ctx=trace,
            ) as response:
                body = await _read(response)
                return Answer(
                    status=response.status,
                    reply=wire.decode(body, response.content_type) if response.status == 200 else None,
                    detail=response.headers.get("Location", "")[:200],
                    retry_after=response.headers.get("Retry-After"),
                    reused=trace.reused,
                )
        except Exception as exc:  # noqa: BLE001 - each is told apart below, and what is not of the network goes on
            return Answer(failure=_failure(exc, connected=trace.connected), detail=_detail(exc), reused=trace.reused)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body, as far as an answer of the platform can be long."""
    parts, size = [], 0
    async for part in response.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _LARGEST_ANSWER_BYTES:
            response.close()
            break
    return b"".join(parts)


def _failure(exc: Exception, *, connected: bool) -> Failure:
    """Return what *exc*, raised by aiohttp, says of the request; anything else is a bug and raised again."""
    # Once connected, the certificate was accepted: TLS that breaks later may break behind a request that was applied.
    if not connected and isinstance(
        exc, aiohttp.ClientConnectorCertificateError | aiohttp.ClientSSLError | ssl.SSLError
    ):
        return Failure.CERTIFICATE
    if isinstance(exc, aiohttp.ClientConnectorError | aiohttp.ConnectionTimeoutError):
        return Failure.NOT_CONNECTED
    if isinstance(exc, aiohttp.ClientConnectionResetError):
        return Failure.NOT_WRITTEN
    if isinstance(exc, TimeoutError):
        return Failure.TIMEOUT if connected else Failure.NOT_CONNECTED
    if isinstance(exc, aiohttp.ClientError | OSError | asyncio.IncompleteReadError):
        return Failure.RESET
    raise exc


def _detail(exc: Exception) -> str:
    return str(exc)[:200] or type(exc).__name__


def _tracing() -> aiohttp.TraceConfig:
    """Return the hooks that tell whether a request had a connection, and whether it was an old one."""
    config = aiohttp.TraceConfig()

    async def reused(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.reused = context.trace_request_ctx.connected = True

    async def created(_: aiohttp.ClientSession, context: SimpleNamespace, __: object) -> None:
        context.trace_request_ctx.connected = True

    config.on_connection_reuseconn.append(reused)
    config.on_connection_create_end.append(created)
    return config


@asynccontextmanager
async def connected(
    settings: EndpointSettings, *, max_concurrency: int, timeout_s: float
) -> AsyncIterator[HttpEndpoint]:
    """Yield the endpoint on a session of its own; concurrency is the limiter's, so the connector never queues."""
    headers = {}
    if settings.auth.kind == "bearer" and settings.auth.bearer:
        headers["Authorization"] = f"Bearer {settings.auth.bearer.get_secret_value()}"
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=max_concurrency, limit_per_host=0, keepalive_timeout=15, ttl_dns_cache=300
        ),
        # Affinity cookies would pin all load to one back end.
        cookie_jar=aiohttp.DummyCookieJar(),
        headers=headers,
        skip_auto_headers={"Accept-Encoding"},
        timeout=aiohttp.ClientTimeout(total=timeout_s, sock_connect=min(CONNECT_S, timeout_s)),
        trust_env=False,
        trace_configs=[_tracing()],
    ) as session:
        yield HttpEndpoint(session, settings)
