"""What the machinery of sending costs: the full sender beside a bare aiohttp loop, in turn, against the same server.

Both use one session of the same settings, the same event loop and as many requests in flight. The bare loop encodes
nothing, judges nothing, keeps nothing. Run: python -m benchmarks.cost [ROUNDS]
"""

import asyncio
import random
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import aiohttp

from sync_job.config import DeliverySettings, EndpointSettings
from sync_job.delivery import endpoint
from sync_job.delivery.endpoint import HttpEndpoint
from sync_job.delivery.limit import Limit, Round
from sync_job.delivery.pool import Pool, Row
from sync_job.delivery.sending import Stop, World
from sync_job.delivery.verdict import Codes
from sync_job.ledger.journal import Journal
from sync_job.runs.leg import JournalRecord
from tests import nginx

NOBODY = "http://127.0.0.1:9"
ROWS, IN_FLIGHT, SENT = 12000, 16, 0b01011010
ANSWER = 'default_type application/json; return 200 \'{"ErrorCode":0,"Message":""}\';'


class Held:
    """The law that thinks as ever, held to a number: both loops have as many requests in flight."""

    paced = met = False
    value = float(IN_FLIGHT)

    def __init__(self, law: Limit) -> None:
        self.law = law

    def after(self, round_: Round) -> "Held":
        """Let the law conclude what it likes."""
        return Held(self.law.after(round_))

    def after_outage(self, throttled: float, rests: int) -> "Held":
        """Let the law conclude what it likes."""
        return Held(self.law.after_outage(throttled, rests))


async def bare(session: aiohttp.ClientSession, platform: HttpEndpoint) -> float:
    """Return the requests a second of workers that post the same bytes and read the answer."""
    body = platform.body(1, SENT)
    left = iter(range(ROWS))

    async def work() -> None:
        for _ in left:
            async with session.post(
                platform.url, data=body, headers=platform.shown_headers, allow_redirects=False
            ) as answer:
                await answer.read()

    began = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(IN_FLIGHT)))
    return ROWS / (time.perf_counter() - began)


async def full(platform: HttpEndpoint, folder: Path) -> float:
    """Return the requests a second of the product's sender: gate, retries, verdicts, journal, progress."""
    settings = DeliverySettings.model_validate({"max_concurrency": IN_FLIGHT})
    loop = asyncio.get_running_loop()
    journal = Journal(folder / "journal.db", ROWS)
    began = time.perf_counter()
    async with journal.writing():
        world = World(time.time, loop.time, rng=random.Random(1))
        law = Held(Limit.starting(IN_FLIGHT, 4 * IN_FLIGHT))
        senders = Pool(platform, JournalRecord(journal), settings, Codes(), world, Stop(), law=law)
        await senders.deliver(_rows())
    took = time.perf_counter() - began
    assert senders.requests == ROWS, "something was repeated: not the same work"
    return ROWS / took


def _rows() -> Iterator[Row]:
    for place in range(ROWS):
        yield place, place + 1, SENT


async def compare(url: str, rounds: int) -> list[tuple[float, float]]:
    """Return the requests a second of both, round by round."""
    settings = EndpointSettings.model_validate({"base_url": url})
    found = []
    async with (
        endpoint.connected(settings, max_concurrency=2 * IN_FLIGHT, timeout_s=10) as platform,
        aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=2 * IN_FLIGHT, limit_per_host=0, keepalive_timeout=15),
            cookie_jar=aiohttp.DummyCookieJar(),
            skip_auto_headers={"Accept-Encoding"},
            timeout=aiohttp.ClientTimeout(total=10, sock_connect=10),
        ) as session,
    ):
        await bare(session, platform)
        for round_ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                pair = [0.0, 0.0]
                for which in (0, 1) if round_ % 2 else (1, 0):
                    pair[which] = await (full(platform, Path(folder)) if which else bare(session, platform))
            found.append((pair[0], pair[1]))
            print(f"bare {pair[0]:7,.0f}/s  full {pair[1]:7,.0f}/s  {pair[1] / pair[0]:.3f}", flush=True)
    return found


def main() -> None:
    """Print each round, and the median of the ratios."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 9
    with tempfile.TemporaryDirectory() as folder, nginx.in_front_of(NOBODY, Path(folder), limits=ANSWER) as server:
        found = asyncio.run(compare(server.url, rounds))
    print(f"full over bare, median of {rounds}: {statistics.median(full / bare for bare, full in found):.3f}")


if __name__ == "__main__":
    main()
