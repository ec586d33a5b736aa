"""One request for one client, shown to the last byte: to see how an endpoint answers before a run depends on it."""

import asyncio
from dataclasses import dataclass

from sync_job.config import Settings
from sync_job.consent.channels import DENIED, pick
from sync_job.delivery import endpoint, wire
from sync_job.delivery.verdict import Answer, Codes, Verdict, judge


@dataclass(frozen=True)
class Trial:
    """What was sent, with its token masked, what came back, and what it means."""

    url: str
    headers: dict[str, str]
    body: bytes
    answer: Answer
    verdict: Verdict


def send(settings: Settings, client: int, deny: list[str]) -> Trial:
    """Deny the named channels of one client, and return everything about it; it never grants, and keeps no state.

    Raises:
        ValueError: for a name that is no channel.
    """
    return asyncio.run(_send(settings, client, pick(deny, DENIED)))


async def _send(settings: Settings, client: int, sent: int) -> Trial:
    codes = Codes(frozenset(settings.endpoint.retry_codes), frozenset(settings.endpoint.not_found_codes))
    timeout_s = settings.delivery.timeout_s
    async with endpoint.connected(settings.endpoint, max_concurrency=1, timeout_s=timeout_s) as platform:
        answer = await platform.attempt(client, sent)
        verdict = judge(answer, codes, good_before=False)
        shown = wire.masked(platform.body(client, sent))
        return Trial(str(platform.url), platform.shown_headers, shown, answer, verdict)
