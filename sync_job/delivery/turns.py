"""Keeps pools that send beside each other from asking for one client at once."""

import asyncio

from sync_job.delivery.sending import Endpoint
from sync_job.delivery.verdict import Answer


class Turns:
    """An endpoint that several pools share: a request waits while another one of its client is in flight."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._in_flight: dict[int, asyncio.Event] = {}

    def busy(self) -> list[int]:
        """Return the clients of which a request is in flight."""
        return list(self._in_flight)

    async def attempt(self, client: int, sent: int) -> Answer:
        """Send one request when no other of its client is in flight, and return what came of it."""
        while (other := self._in_flight.get(client)) is not None:
            await other.wait()
        ended = self._in_flight[client] = asyncio.Event()
        try:
            return await self._endpoint.attempt(client, sent)
        finally:
            del self._in_flight[client]
            ended.set()
