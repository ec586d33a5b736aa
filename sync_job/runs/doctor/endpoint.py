"""Whether the endpoint can be reached, step by step; no update is sent."""

import asyncio
import time
from collections.abc import Iterator

from sync_job.config import Settings
from sync_job.delivery import probe
from sync_job.delivery.probe import Reached
from sync_job.errors import Exit
from sync_job.runs.doctor.check import Area, Check

_AREA = Area("endpoint", Exit.ENDPOINT)
_DAYS_LEFT = 14.0
_WHERE = {
    "name": ("name", "Mend [endpoint] base_url or proxy, or this machine's DNS."),
    "connection": ("connection", "Is the platform up, and does a firewall let this machine through?"),
    "proxy": ("proxy", "Look at [endpoint] proxy and CONSENT_SYNC__ENDPOINT__PROXY_AUTH."),
    "tls": ("certificate", "If it comes from a private CA: [endpoint.tls] ca. If it expired: tell its operator."),
    "request": ("answer", "Is it this platform at [endpoint] base_url? `consent-sync try` shows a whole request."),
}


def look(settings: Settings, reached: Reached) -> Iterator[Check]:
    """Yield how far a harmless request came."""
    target = settings.endpoint
    through = f" through {target.proxy}" if target.proxy else ""
    if target.in_the_clear:
        cure = "Use https: ids, consent and tokens can be read and changed on the way."
        yield _AREA.warning("encryption", f"{target.base_url} is plain http, as allow_plain_http says", cure)
    if reached.addresses:
        whose = "the proxy's name" if target.proxy else "the name"
        yield _AREA.ok("name", f"{whose} is {', '.join(reached.addresses[:4])}")
    if reached.connected:
        yield _AREA.ok("connection", f"{target.base_url} takes connections{through}" if not through else through[1:])
    if reached.tls:
        yield certificate(reached, time.time())
    if reached.failed:
        what, cure = _WHERE[reached.failed]
        yield _AREA.problem(what, f"{target.base_url}{through}: {reached.why}", cure)
    elif reached.status is not None:
        yield _answer(reached.status)


def certificate(reached: Reached, now: float) -> Check:
    """Return how long the certificate is good for, once it was accepted."""
    if reached.expires is None:
        return _AREA.ok("certificate", f"{reached.tls}, accepted")
    days = (reached.expires - now) / 86400
    said = f"{reached.tls}, accepted, good for {days:,.0f} days"
    if days < _DAYS_LEFT:
        return _AREA.warning("certificate", said, "Tell the platform's operator: runs stop when it has expired.")
    return _AREA.ok("certificate", said)


def _answer(status: int) -> Check:
    said = f"HTTP {status} to a HEAD of the base URL"
    if status == 407:
        return _AREA.problem("proxy", said, _WHERE["proxy"][1])
    if status >= 500:
        return _AREA.warning("answer", said, "It is there, and not well: look again, or ask its operator.")
    return _AREA.ok("answer", f"{said}: it is there (what it says to that is of no account)")


def login(settings: Settings) -> Check:
    """Return whether a token is given for user and password, as the first request of a run would ask for it."""
    if settings.endpoint.auth.kind != "password":
        return _AREA.skipped("login", f'[endpoint.auth] kind = "{settings.endpoint.auth.kind}" logs in nowhere')
    why = asyncio.run(probe.log_in(settings.endpoint))
    if why:
        return _AREA.problem("login", why)
    return _AREA.ok("login", f"{settings.endpoint.auth.username} was given a token")


def unasked(why: str) -> Check:
    """Return that nobody asked the endpoint, and *why*."""
    return _AREA.skipped("endpoint", why)
