"""One attempt over real sockets, against the stand-in: what came of it is an answer, never an exception."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from sync_job.delivery.verdict import Answer, Failure
from sync_job.delivery.wire import Reply
from sync_job.standin.background import running
from sync_job.standin.contract import Flags
from sync_job.standin.faults import Fault, listed
from sync_job.standin.options import Options
from tests.sockets import SENT, Authority, delivering, opened, raw, request, serving

MEANT = Flags(True, False, None, True)


def attempts(
    url: str,
    count: int = 1,
    *,
    timeout_s: float = 5.0,
    between: Callable[[], Awaitable[None]] | None = None,
    **settings: object,
) -> list[Answer]:
    """Return the answers to so many attempts, one after another on one session, for clients 1 and on."""

    async def main() -> list[Answer]:
        answers = []
        async with opened(url, timeout_s, **settings) as endpoint:
            for client in range(1, count + 1):
                answers.append(await endpoint.attempt(client, SENT))
                if between:
                    await between()
        return answers

    return asyncio.run(main())


@pytest.mark.parametrize("format_", ["json", "xml", "form"])
def test_change_is_delivered_in_each_format(format_: str) -> None:
    """The platform reads what was meant, operator, token and site code as well, and its success comes back."""
    with running() as platform:
        answer = attempts(platform.url, format=format_, operator=3, token=SecretStr("12"), site_code="<сайт & co>")[0]
        assert answer == Answer(200, Reply(0, ""))
        assert platform.platform.state == {1: MEANT}


@pytest.mark.parametrize("format_", ["json", "xml", "form"])
def test_refusal_comes_back_with_its_message(format_: str) -> None:
    """Code and Russian text."""
    with running(Options(known=())) as platform:
        assert attempts(platform.url, format=format_) == [Answer(200, Reply(8, "Участник не найден"))]


def test_connection_is_kept_and_that_is_said() -> None:
    """The first attempt makes one, the next ones use it."""
    with running() as platform:
        assert [answer.reused for answer in attempts(platform.url, 3)] == [False, True, True]


def test_base_url_may_have_a_path() -> None:
    """The endpoint's path is put behind it."""
    with running() as platform:
        assert attempts(platform.url + "/lc/partner/")[0].status == 200


@pytest.mark.parametrize(
    ("fault", "status"),
    [
        (Fault.ERROR_BEFORE, 500),
        (Fault.UNAVAILABLE, 503),
        (Fault.TOO_MANY, 429),
        (Fault.UNAUTHORISED, 401),
        (Fault.FORBIDDEN, 403),
    ],
)
def test_other_statuses_come_back_as_they_are(fault: Fault, status: int) -> None:
    """Without a reply, and without a failure: something did answer."""
    with running(Options(script=listed([fault]))) as platform:
        assert attempts(platform.url) == [Answer(status)]


def test_retry_after_is_handed_on() -> None:
    """As it was written; what it means is judged elsewhere."""
    with running(Options(script=listed([Fault.TOO_MANY_RETRY_AFTER]), retry_after_s="soon")) as platform:
        assert attempts(platform.url)[0].retry_after == "soon"


def test_redirect_is_not_followed() -> None:
    """A redirected POST would become a GET that looks like success; the target is kept for the message."""
    with running(Options(script=listed([Fault.REDIRECT]))) as platform:
        answer = attempts(platform.url)[0]
        assert (answer.status, answer.reply, platform.requests) == (302, None, 1)
        assert answer.detail == "/standin/login"


def test_page_with_status_200_is_no_reply() -> None:
    """A proxy's maintenance page is not the platform."""
    with running(Options(script=listed([Fault.GARBAGE]))) as platform:
        assert attempts(platform.url) == [Answer(200)]


@pytest.mark.parametrize(("fault", "applied"), [(Fault.RESET_BEFORE, False), (Fault.RESET_AFTER, True)])
def test_reset_is_one_whether_or_not_the_change_was_applied(fault: Fault, applied: bool) -> None:
    """The sender cannot tell the two apart, which is why both are in doubt; the next attempt gets through."""
    with running(Options(script=listed([fault]))) as platform:
        first, second = attempts(platform.url, 2)
        assert (first.failure, first.reused, first.status) == (Failure.RESET, False, None)
        assert (second.reply, second.reused) == (Reply(0, ""), False)
        assert (1 in platform.platform.state) is applied


def test_reset_on_a_kept_connection_says_so() -> None:
    """It is retried at once, so it must be told from one on a new connection."""
    with running(Options(script=listed([None, Fault.RESET_BEFORE]))) as platform:
        answers = attempts(platform.url, 3)
        assert [(answer.failure, answer.reused) for answer in answers] == [
            (None, False), (Failure.RESET, True), (None, False),
        ]  # fmt: skip


def test_no_answer_in_time_is_a_timeout() -> None:
    """The change may have been applied all the same, and the connection is not used again."""
    with running(Options(script=listed([Fault.STALL]))) as platform:
        began = time.monotonic()
        first, second = attempts(platform.url, 2, timeout_s=0.2)
        assert (first.failure, first.status) == (Failure.TIMEOUT, None)
        assert time.monotonic() - began < 2
        assert (second.status, second.reused) == (200, False)
        assert platform.platform.state.keys() == {1, 2}


def test_body_that_stalls_is_a_timeout_and_one_that_breaks_off_a_reset() -> None:
    """A status alone is no answer."""
    head = raw(b"x" * 100)[:-90]

    async def main() -> list[Answer]:
        release = asyncio.Event()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            stalls = b'"Client": 1,' in await request(reader)
            writer.write(head)
            await writer.drain()
            if stalls:
                await release.wait()
            writer.close()

        async with serving(serve) as port, opened(f"http://127.0.0.1:{port}", 0.2) as endpoint:
            answers = [await endpoint.attempt(client, SENT) for client in (1, 2)]
            release.set()
            await asyncio.sleep(0.01)
            return answers

    assert [answer.failure for answer in asyncio.run(main())] == [Failure.TIMEOUT, Failure.RESET]


@pytest.mark.parametrize("announce", [True, False])
@pytest.mark.parametrize("per_connection", [1, 3])
def test_connections_that_the_server_closes_lose_nothing(per_connection: int, announce: bool) -> None:
    """Announced or not: each attempt is delivered, or broken on a kept connection, which is retried at once."""
    with running(Options(requests_per_connection=per_connection, announce_close=announce)) as platform:
        answers = attempts(platform.url, 12)
        for answer in answers:
            assert answer.reply == Reply(0, "") or (
                answer.reused and answer.failure in (Failure.RESET, Failure.NOT_WRITTEN) and not announce
            )
        assert sum(answer.reply is not None for answer in answers) >= 12 * per_connection // (per_connection + 1)
        assert [answer.reused for answer in answers[:per_connection]] == [False] + [True] * (per_connection - 1)


def test_outage_is_no_connection_and_ends() -> None:
    """A port where nobody listens refuses; once somebody does, the same session gets through."""
    with running() as platform:
        platform.stop()

        async def start() -> None:
            await asyncio.to_thread(platform.start)

        first, second = attempts(platform.url, 2, between=start)
        assert (first.failure, first.status, first.reused) == (Failure.NOT_CONNECTED, None, False)
        assert first.detail
        assert second.status == 200


def test_unknown_host_is_no_connection() -> None:
    """A name that does not resolve says nothing of the change: it was surely not sent."""

    async def resolves_quickly() -> bool:
        loop = asyncio.get_running_loop()
        try:
            await asyncio.wait_for(loop.getaddrinfo("nonexistent.invalid", 80), 2)
        except socket.gaierror:
            return True
        except TimeoutError:
            return False
        return False

    if not asyncio.run(resolves_quickly()):
        pytest.skip("the resolver here does not say quickly that a name is unknown")
    began = time.monotonic()
    assert attempts("http://nonexistent.invalid")[0].failure is Failure.NOT_CONNECTED
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(("bearer", "status"), [("right", 200), ("wrong", 401), (None, 401)])
def test_bearer_token_is_sent(bearer: str | None, status: int) -> None:
    """In the Authorization header, when the configuration says so."""
    auth = {"kind": "bearer", "bearer": bearer} if bearer else {"kind": "none"}
    with running(Options(bearer_token="right")) as platform:  # noqa: S106 - a made-up one
        assert attempts(platform.url, auth=auth)[0].status == status


def test_request_on_the_wire() -> None:
    """One POST with the format's types and a length, nothing about compression, and no cookie that was set."""
    seen: list[bytes] = []

    async def main() -> None:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            for _ in range(2):
                seen.append(await request(reader))
                writer.write(raw(b'{"ErrorCode":0}', b"application/json", b"Set-Cookie: ARRAffinity=x; Path=/"))
            writer.close()

        async with serving(serve) as port, opened(f"http://127.0.0.1:{port}/lc") as endpoint:
            for client in (1, 2):
                assert (await endpoint.attempt(client, SENT)).reply == Reply(0, "")

    asyncio.run(main())
    for message, client in zip(seen, (1, 2), strict=True):
        head, _, body = message.partition(b"\r\n\r\n")
        line, *lines = head.decode().split("\r\n")
        named = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        assert line == "POST /lc/api/client/ClientUpdateCommunication HTTP/1.1"
        assert named["content-type"] == "application/json; charset=utf-8"
        assert named["accept"] == "application/json"
        assert named["content-length"] == str(len(body))
        assert not {"accept-encoding", "cookie", "authorization", "transfer-encoding", "expect"} & named.keys()
        assert body == (
            b'{"Client": %d, "AllowSms": true, "AllowEmail": false, "AllowEmailOnlineCheque": true}' % client
        )


def test_endless_answer_is_cut_and_no_reply() -> None:
    """Not more than about a mebibyte is read, and the connection is not used again."""
    chunk = b" " * 65536
    written = 0

    async def main() -> list[Answer]:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal written
            await request(reader)
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000000\r\n\r\n")
            writer.write(b'{"ErrorCode":0,"Message":"')
            try:
                while written < 1 << 28:
                    writer.write(chunk)
                    await writer.drain()
                    written += len(chunk)
            except ConnectionError:
                pass
            finally:
                writer.close()

        async with serving(serve) as port, opened(f"http://127.0.0.1:{port}") as endpoint:
            answers = [await endpoint.attempt(client, SENT) for client in (1, 2)]
            await asyncio.sleep(0.05)
            return answers

    assert asyncio.run(main()) == [Answer(200)] * 2
    assert written < 1 << 26


@pytest.mark.parametrize("nonsense", [b"SSH-2.0-OpenSSH_9.6\r\n", b"", b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n"])
def test_what_is_not_http_is_a_reset(nonsense: bytes) -> None:
    """Something was sent, and what came back is no answer: in doubt."""

    async def main() -> Answer:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await request(reader)
            writer.write(nonsense)
            writer.close()

        async with serving(serve) as port, opened(f"http://127.0.0.1:{port}") as endpoint:
            return await endpoint.attempt(1, SENT)

    assert asyncio.run(main()).failure is Failure.RESET


def test_certificate_that_is_not_trusted_is_told_apart(tmp_path: Path) -> None:
    """Nothing was sent, and trying again would not help."""
    context = Authority(tmp_path).server()
    requests: list[bytes] = []

    async def main() -> Answer:
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            requests.append(await reader.read())
            writer.close()

        async with serving(serve, context) as port, opened(f"https://127.0.0.1:{port}") as endpoint:
            return await endpoint.attempt(1, SENT)

    answer = asyncio.run(main())
    assert answer.failure is Failure.CERTIFICATE
    assert "certificate" in answer.detail.lower()
    assert not any(requests)


def test_connection_that_ends_before_tls_does_is_no_connection() -> None:
    """An overloaded host that hangs up is not a wrong certificate."""

    async def main() -> Answer:
        async def serve(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            writer.close()

        async with serving(serve) as port, opened(f"https://127.0.0.1:{port}") as endpoint:
            return await endpoint.attempt(1, SENT)

    assert asyncio.run(main()).failure is Failure.NOT_CONNECTED


def test_body_is_what_is_sent() -> None:
    """What `try` shows is what goes out."""

    async def main() -> bytes:
        async with opened("http://127.0.0.1:1", format="form") as endpoint:
            return endpoint.body(7, SENT)

    assert asyncio.run(main()) == b"Client=7&AllowSms=true&AllowEmail=false&AllowEmailOnlineCheque=true"


def test_headers_of_the_configuration_arrive_and_secrets_are_not_shown() -> None:
    """Further headers go out with each request; what is shown has a mask in the place of a secret."""
    seen: list[bytes] = []

    async def main() -> dict[str, str]:
        secret = {"name": "X-Api-Key", "value": SecretStr("hush")}
        more: dict[str, Any] = {"headers": {"X-Tenant": "1"}, "secret_headers": [secret]}
        async with serving(delivering(seen)) as port, opened(f"http://127.0.0.1:{port}", **more) as endpoint:
            assert (await endpoint.attempt(1, SENT)).status == 200
            return endpoint.shown_headers

    shown = asyncio.run(main())
    head = seen[0].partition(b"\r\n\r\n")[0].split(b"\r\n")
    assert {b"X-Tenant: 1", b"X-Api-Key: hush", b"Accept: application/json"} <= set(head)
    assert shown == {
        "Content-Type": "application/json; charset=utf-8", "Accept": "application/json",
        "X-Tenant": "1", "X-Api-Key": "***",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("url", "proxy", "warned"),
    [
        ("http://127.0.0.1:1", "", False),
        ("http://[::1]:1", "", False),
        ("http://localhost:1", "", False),
        ("http://127.0.0.1:1", "http://127.0.0.1:2", False),
        ("http://127.0.0.1:1", "http://proxy.example.com:2", True),
        ("http://nonexistent.invalid", "", True),
        ("https://nonexistent.invalid", "", False),
    ],
)
def test_plain_http_to_elsewhere_is_warned_of(url: str, proxy: str, warned: bool) -> None:
    """Each use says so in the log, but on loopback and over https."""

    async def main() -> None:
        async with opened(url, proxy=proxy):
            pass

    with capture_logs() as logs:
        asyncio.run(main())
    expected = [{"event": "endpoint.plain_http", "log_level": "warning", "base_url": url}]
    assert logs == (expected if warned else [])
