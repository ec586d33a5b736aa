"""Requests through a forward proxy: CONNECT for https, whole addresses for http, with and without credentials."""

import asyncio
import base64
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pydantic import SecretStr

from sync_job.config import AuthSettings
from sync_job.delivery.verdict import Answer, Codes, Failure, Kind, judge
from sync_job.standin.background import running
from sync_job.standin.options import Options
from tests.sockets import SENT, Authority, delivering, opened, serving

AUTH = SecretStr("user:pass:word")
CREDENTIALS = b"Proxy-Authorization: Basic " + base64.b64encode(b"user:pass:word")


class Proxy:
    """A forward proxy; it keeps the head of each request that it reads, and answers *refuse* to all if that is set."""

    def __init__(self, *, wants: bytes | None = None, refuse: bytes | None = None) -> None:
        self._wants = wants
        self._refuse = refuse
        self.heads: list[bytes] = []

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes on a connection: one tunnel, or requests to one host."""
        upstream: asyncio.StreamWriter | None = None
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            self.heads.append(head)
            refuse = self._refuse
            if refuse is None and self._wants and self._wants not in head:
                refuse = b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
            if refuse is not None:
                writer.write(refuse)
                return
            method, target, _ = head.split(b"\r\n", 1)[0].split(b" ")
            parts = urlsplit(b"//" + target if method == b"CONNECT" else target)
            answers, upstream = await asyncio.open_connection((parts.hostname or b"").decode(), parts.port)
            if method == b"CONNECT":
                writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            else:
                upstream.write(head.replace(target, parts.path, 1))
            await asyncio.gather(_copy(reader, upstream), _copy(answers, writer))
        except (asyncio.IncompleteReadError, OSError):
            pass
        finally:
            for one in (writer, upstream):
                if one is not None:
                    one.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(OSError):
        while block := await reader.read(65536):
            writer.write(block)
    writer.close()


@asynccontextmanager
async def proxied(proxy: Proxy, seen: list[bytes], context: ssl.SSLContext | None) -> AsyncIterator[tuple[str, str]]:
    """Yield the addresses of a server and of the proxy before it."""
    async with serving(delivering(seen), context) as port, serving(proxy.serve) as at:
        yield f"http{'s' if context else ''}://127.0.0.1:{port}", f"http://127.0.0.1:{at}"


def attempt(
    proxy: Proxy, context: ssl.SSLContext | None = None, count: int = 1, **settings: Any
) -> tuple[list[Answer], list[bytes]]:
    """Return the answers to so many attempts through *proxy*, and the requests that reached the server."""
    seen: list[bytes] = []

    async def main() -> list[Answer]:
        async with (
            proxied(proxy, seen, context) as (url, through),
            opened(url, proxy=through, **settings) as endpoint,
        ):
            return [await endpoint.attempt(client, SENT) for client in range(1, count + 1)]

    return asyncio.run(main()), seen


@pytest.mark.parametrize("proxy_auth", [None, AUTH])
def test_plain_requests_go_through_with_their_whole_address(proxy_auth: SecretStr | None) -> None:
    """Credentials go with each of them."""
    proxy = Proxy(wants=CREDENTIALS if proxy_auth else None)
    (answer,), seen = attempt(proxy, proxy_auth=proxy_auth)
    assert answer.status == 200
    assert len(seen) == 1
    assert proxy.heads[0].startswith(b"POST http://127.0.0.1:")
    assert (CREDENTIALS in proxy.heads[0]) is (proxy_auth is not None)


@pytest.mark.parametrize("proxy_auth", [None, AUTH])
def test_https_goes_through_a_tunnel_that_is_kept(proxy_auth: SecretStr | None, tmp_path: Path) -> None:
    """One CONNECT for several requests; the proxy's credentials go with it, and never to the platform."""
    authority = Authority(tmp_path)
    proxy = Proxy(wants=CREDENTIALS if proxy_auth else None)
    answers, seen = attempt(proxy, authority.server(), 3, tls={"ca": authority.certificate}, proxy_auth=proxy_auth)
    assert [(answer.status, answer.reused) for answer in answers] == [(200, False), (200, True), (200, True)]
    assert len(proxy.heads) == 1
    assert proxy.heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert (CREDENTIALS in proxy.heads[0]) is (proxy_auth is not None)
    assert not any(b"proxy-authorization" in one.lower() for one in seen)


def test_certificate_is_verified_through_the_tunnel(tmp_path: Path) -> None:
    """A proxy that breaks TLS open is told apart like any other endpoint that is not who it says."""
    (answer,), seen = attempt(Proxy(), Authority(tmp_path).server())
    assert answer.failure is Failure.CERTIFICATE
    assert not seen


@pytest.mark.parametrize("https", [False, True])
def test_proxy_that_wants_credentials_stops_the_run(https: bool, tmp_path: Path) -> None:
    """407 names the settings, be it the answer to CONNECT or to the request."""
    context = Authority(tmp_path).server() if https else None
    (answer,), seen = attempt(Proxy(wants=CREDENTIALS), context, proxy_auth=SecretStr("user:wrong"))
    verdict = judge(answer, Codes(), good_before=True)
    assert (answer.status, verdict.kind, verdict.doubt) == (407, Kind.STOP, False)
    assert "[endpoint] proxy and CONSENT_SYNC__ENDPOINT__PROXY_AUTH" in verdict.why
    assert not seen


@pytest.mark.parametrize(
    ("refuse", "said"),
    [
        (b"HTTP/1.1 503 Busy\r\nRetry-After: 7\r\nContent-Length: 0\r\n\r\n", "the proxy answered HTTP 503 Busy"),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "the proxy answered HTTP 403 Forbidden"),
        (b"", "disconnected"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "400"),
    ],
)
def test_proxy_that_makes_no_tunnel_is_no_connection(refuse: bytes, said: str, tmp_path: Path) -> None:
    """Nothing of the request was sent, whatever the proxy answers to CONNECT: tried again, and never in doubt."""
    (answer,), _ = attempt(Proxy(refuse=refuse), Authority(tmp_path).server())
    assert answer.failure is Failure.NOT_CONNECTED
    assert said in answer.detail
    assert answer.retry_after == ("7" if b"Retry-After" in refuse else None)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_proxy_that_is_not_there_is_no_connection(scheme: str) -> None:
    """The address that does not answer is named: it is the proxy's."""

    async def main() -> Answer:
        async with opened(f"{scheme}://127.0.0.1:2", proxy="http://127.0.0.1:1") as endpoint:
            return await endpoint.attempt(1, SENT)

    answer = asyncio.run(main())
    assert answer.failure is Failure.NOT_CONNECTED
    assert "127.0.0.1:1 " in answer.detail


def test_proxies_of_the_environment_are_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a shell exports for other programs does not redirect consent."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    async def main(url: str) -> Answer:
        async with opened(url) as endpoint:
            return await endpoint.attempt(1, SENT)

    with running() as platform:
        assert asyncio.run(main(platform.url)).status == 200


@pytest.mark.parametrize("right", [True, False])
def test_login_goes_through_the_proxy_too(right: bool) -> None:
    """Its 407 stops the run like that of a request."""
    proxy = Proxy(wants=CREDENTIALS)
    user = AuthSettings(kind="password", username="robot", password=SecretStr("hush"))

    async def main(url: str) -> Answer:
        async with serving(proxy.serve) as port:
            through = f"http://127.0.0.1:{port}"
            proxy_auth = AUTH if right else None
            async with opened(url, proxy=through, proxy_auth=proxy_auth, auth=user) as endpoint:
                return await endpoint.attempt(1, SENT)

    with running(Options(username="robot", password="hush")) as platform:  # noqa: S106 - a made-up one
        assert asyncio.run(main(platform.url)).status == (200 if right else 407)
        assert platform.login_requests == right
