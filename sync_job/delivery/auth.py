"""The token of `[endpoint.auth] kind = "password"`: one for all workers, and one request at a time that gets it.

A token is got before the first request, renewed in the background before it expires, and got anew when a request is
answered 401. How a request for a token travels is left to `endpoint.py`. Tokens are kept in memory alone.
"""

import asyncio
import json
import math
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

import structlog

from sync_job.config import PREFIX, AuthSettings
from sync_job.delivery.verdict import Answer, Codes, Failure, Kind, judge, pause_s

MARGIN_S, MARGIN_SHARE = 60.0, 0.2  # a token is renewed so long before its end, or this part of its life if less
PAUSE_S = 1.0  # between a request for a token that brought none, and the next
_HEADER_SAFE = re.compile(r"[!-~]+")
_ERROR = re.compile(r"[a-z_]{1,40}")  # of OAuth; anything else an answer says is not repeated

_log = structlog.get_logger()

Ask = Callable[[dict[str, str]], Awaitable[tuple[Answer, bytes]]]


@dataclass(frozen=True, slots=True)
class Token:
    """A token, and what else came with it; times are a monotonic clock's, infinite where nothing was said."""

    access: str = field(repr=False)
    refresh: str | None = field(repr=False, default=None)
    renew_at: float = math.inf
    expires_at: float = math.inf


def read(answer: Answer, body: bytes, asked_at: float, path: str, *, good_before: bool) -> Token | Answer:
    """Return the token that a login's *answer* brings, or what its lack means for the change that waits for it.

    That change was surely not sent. An Answer that is no STOP is worth another try.
    """
    if answer.failure in (Failure.CERTIFICATE, Failure.NOT_AUTHORISED) or answer.status == 407:
        return answer  # of the connection, whatever it is used for
    said = _object(body)
    if answer.status == 200:
        return _token(said, asked_at) or _no(f"the login at {path} answered HTTP 200 without an access_token", path)
    error = said.get("error")
    error = error if isinstance(error, str) and _ERROR.fullmatch(error) else ""
    throttled = answer.status == 403 and good_before and not error
    if answer.status in (400, 401, 403) and not throttled:
        return Answer(
            failure=Failure.NOT_AUTHORISED,
            detail=f"the login at {path} answered HTTP {answer.status}{f' ({error})' if error else ''}; "
            f"check [endpoint.auth] username and {PREFIX}ENDPOINT__AUTH__PASSWORD",
        )
    verdict = judge(answer, Codes(), good_before=good_before)
    if verdict.kind in (Kind.TRANSIENT, Kind.BUSY):
        return Answer(
            failure=Failure.NOT_CONNECTED,
            detail=f"the login at {path} brought no token: {verdict.why}",
            retry_after=answer.retry_after,
        )
    where = f", redirected to {answer.detail or 'elsewhere'}" if 300 <= (answer.status or 0) < 400 else ""
    return _no(f"the login at {path} answered HTTP {answer.status}{where}", path)


def _object(body: bytes) -> dict[str, object]:
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _token(said: dict[str, object], asked_at: float) -> Token | None:
    access, refresh = said.get("access_token"), said.get("refresh_token")
    if not isinstance(access, str) or not _HEADER_SAFE.fullmatch(access):
        return None
    refresh = refresh if isinstance(refresh, str) and refresh else None
    life_s = _seconds(said.get("expires_in"))
    if not life_s:
        return Token(access, refresh)
    # From when it was asked for: it may have been made then, whatever the answer's way took.
    expires_at = asked_at + life_s
    return Token(access, refresh, expires_at - min(MARGIN_S, life_s * MARGIN_SHARE), expires_at)


def _seconds(value: object) -> float:
    """Return a number of seconds, as number or text; 0 for anything that is none."""
    if not isinstance(value, int | float | str) or isinstance(value, bool):
        return 0.0
    try:
        seconds = float(value)
    except (ValueError, OverflowError):
        return 0.0
    return seconds if math.isfinite(seconds) and seconds > 0 else 0.0


def _no(what: str, path: str) -> Answer:
    return Answer(
        failure=Failure.NOT_AUTHORISED,
        detail=f"{what}; check [endpoint] base_url and [endpoint.auth] login_path ({path})",
    )


class Tokens:
    """The token that all workers send with.

    Whatever many of them need at once is asked for once, and all of them get what comes of it. A login that says no
    is not asked again: repeated, it would lock the user out.
    """

    def __init__(
        self,
        settings: AuthSettings,
        operator: int | None,
        ask: Ask,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._operator = {} if operator is None else {"operator": str(operator)}
        self._ask = ask
        self._clock = clock
        self._sleep = sleep
        self._now = now
        self._token: Token | None = None
        self._refresh: str | None = None
        self._no: Answer | None = None
        self._renewing: asyncio.Task[Token | Answer] | None = None
        self._not_before = -math.inf
        self._good = False
        self._warned = False

    def ready(self) -> Token | None:
        """Return the token if it is good, and have it renewed in time; none if one has to be obtained first."""
        token = self._token
        if token is None:
            return None
        now = self._clock()
        if now >= token.renew_at:
            if now >= token.expires_at:
                return None
            if now >= self._not_before and self._no is None:
                self._renewal()
        return token

    async def obtain(self) -> Token | Answer:
        """Return a good token, asked for if there is none; an Answer says why there is none to be had."""
        # Shielded: a worker that is cancelled does not take the token from the others.
        token = self.ready()
        return token if token is not None else await asyncio.shield(self._renewal())

    async def instead_of(self, refused: Token) -> Token | Answer:
        """Return a good token once *refused* was answered 401; only the first who says so has one asked for."""
        if self._token is refused:
            self._token = None
        return await self.obtain()

    def expired(self, token: Token) -> bool:
        """Return whether the time of *token* is over, so that a 401 for it was to be expected."""
        return self._clock() >= token.expires_at

    async def close(self) -> None:
        """Give up a request for a token that is under way."""
        if self._renewing is not None and not self._renewing.done():
            self._renewing.cancel()
            await asyncio.wait({self._renewing})

    def _renewal(self) -> asyncio.Task[Token | Answer]:
        """Return the one renewal that is under way, begun if there is none."""
        if self._renewing is None or self._renewing.done():
            self._renewing = asyncio.get_running_loop().create_task(self._renew())
        return self._renewing

    async def _renew(self) -> Token | Answer:
        if self._no is not None:
            return self._no
        # A longer Retry-After is for the background and the pool; whoever waits here asks after this pause.
        pause = min(PAUSE_S, self._not_before - self._clock())
        if pause > 0:
            await self._sleep(pause)
        found = await self._refreshed() or await self._grant(
            {"grant_type": "password", "username": self._settings.username, "password": self._password()}
        )
        if isinstance(found, Token):
            self._token, self._refresh = found, found.refresh
            self._good, self._warned = True, False
            _log.debug("auth.renewed")
            return found
        verdict = judge(found, Codes(), good_before=self._good)
        if verdict.kind is Kind.STOP:
            self._no = found
        else:
            self._not_before = self._clock() + max(PAUSE_S, pause_s(found.retry_after, self._now()))
        if not self._warned:  # once an outage
            self._warned = True
            _log.warning("auth.not_renewed", why=verdict.why)
        return found

    async def _refreshed(self) -> Token | Answer | None:
        """Return what the refresh token brought; none if there is none, or it is refused: then the password is due."""
        if self._refresh is None:
            return None
        found = await self._grant({"grant_type": "refresh_token", "refresh_token": self._refresh})
        if isinstance(found, Answer) and found.failure is Failure.NOT_AUTHORISED:
            self._refresh = None
            return None
        return found

    async def _grant(self, form: dict[str, str]) -> Token | Answer:
        asked_at = self._clock()
        answer, body = await self._ask(form | self._operator)
        return read(answer, body, asked_at, self._settings.login_path, good_before=self._good)

    def _password(self) -> str:
        return self._settings.password.get_secret_value() if self._settings.password else ""
