"""nginx in front of the stand-in: it passes requests on over connections that it keeps, and limits them."""

import asyncio
from collections import Counter
from pathlib import Path

import aiohttp
from aiohttp import web

from sync_job.standin.background import running
from sync_job.standin.options import Options
from sync_job.standin.server import ENDPOINT, Endpoint, listening
from tests import nginx


async def crowd(url: str, requests: int, at_once: int) -> Counter[int]:
    """Return how often each status came back to *requests* updates, sent over *at_once* connections."""
    connector = aiohttp.TCPConnector(limit=at_once)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=20)) as session:

        async def send(client: int) -> int:
            async with session.post(url + ENDPOINT, json={"Client": client, "AllowPush": False}) as response:
                await response.read()
                return response.status

        return Counter(await asyncio.gather(*(send(client) for client in range(1, requests + 1))))


def test_requests_are_passed_on(tmp_path: Path) -> None:
    """What is posted to nginx is applied behind it, and the access log has a line for each answer."""
    with running(Options(latency_ms=20)) as standin:
        with nginx.in_front_of(standin.url, tmp_path) as proxy:
            assert asyncio.run(crowd(proxy.url, 30, 10)) == {200: 30}
        assert sorted(standin.platform.state) == list(range(1, 31))
    assert proxy.statuses() == {200: 30}
    assert all(one.took_s >= 0.015 for one in proxy.answered())


def test_connections_to_the_endpoint_are_kept(tmp_path: Path) -> None:
    """Behind nginx many requests share a connection, even where each of its clients opens one of its own."""
    connections: set[asyncio.Transport] = set()

    class Noting(Endpoint):
        async def respond(self, request: web.BaseRequest) -> web.StreamResponse:
            assert request.transport is not None
            connections.add(request.transport)
            return await super().respond(request)

    async def main() -> None:
        endpoint = Noting(Options())
        async with listening(endpoint, "127.0.0.1", 0) as port:
            with nginx.in_front_of(f"http://127.0.0.1:{port}", tmp_path, requests_per_connection=1) as proxy:
                assert await crowd(proxy.url, 200, 4) == {200: 200}
        assert endpoint.requests == 200

    asyncio.run(main())
    assert 1 <= len(connections) <= 8


def test_too_many_requests_a_second_are_refused(tmp_path: Path) -> None:
    """Above its rate and burst nginx answers 503 itself, and the stand-in sees the others alone."""
    with running() as standin:
        with nginx.in_front_of(
            standin.url,
            tmp_path,
            zones="limit_req_zone $server_name zone=rate:1m rate=1r/s;",
            limits="limit_req zone=rate burst=9 nodelay;",
        ) as proxy:
            statuses = asyncio.run(crowd(proxy.url, 60, 20))
        assert set(statuses) == {200, 503}
        assert 10 <= statuses[200] <= 15  # one and the burst, and one for each second that it takes
        assert standin.requests == statuses[200]
    assert proxy.statuses() == statuses


def test_too_many_requests_at_once_are_refused(tmp_path: Path) -> None:
    """Above its number in flight nginx answers 503 itself, however slow the rate is."""
    with running(Options(latency_ms=300)) as standin:
        with nginx.in_front_of(
            standin.url,
            tmp_path,
            zones="limit_conn_zone $server_name zone=flight:1m;",
            limits="limit_conn flight 5;",
        ) as proxy:
            statuses = asyncio.run(crowd(proxy.url, 20, 20))
        assert statuses == {200: 5, 503: 15}
        assert standin.counts.most_in_flight == 5
    assert proxy.statuses() == statuses
