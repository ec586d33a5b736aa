"""The gate that every attempt passes, first or repeated: it lets through what the law, the rate and the pauses allow.

It also collects what the law learns from: rounds of requests that were sent under one limit. What an answer means is
judged elsewhere (`verdict`); here it is one of four signs.
"""

import asyncio
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, auto
from itertools import takewhile

from sync_job.delivery.breaker import Breaker
from sync_job.delivery.limit import Law, Round
from sync_job.delivery.round_trips import RoundTrips

Clock = Callable[[], float]
Later = Callable[[float, Callable[[], None]], asyncio.TimerHandle]

ROUND_SHARE = 0.5  # of the requests in flight that a round waits for
ROUND_S = 0.02  # a round is at least so long, or the clock's own coarseness would be all that it shows
LATE = 5.0  # times the usual round trip, while later requests are answered: given up as a sample and as a slot
LONGEST_WORTH_S = 2.0  # of what a pause or an outage cost, lest one at the start keeps a whole night low
LOSS = 0.02  # of the time may be lost by finding out whether more is possible
MOST_GOODS = 10_000
DELIVERED_OVER = 4.0  # round trips, to tell how many were delivered when requests are turned away
DELIVERED_AMONG = 20  # requests, at least
_SLACK_S = 0.005  # what a late timer may catch up
_MOMENT_S = 1e-6  # nearer than this is now: a timer may fire that much early


class Sign(Enum):
    """What the end of an attempt says of the endpoint."""

    GOOD = auto()  # it answered as the platform does
    BUSY = auto()  # it has too much to do
    FORBIDDEN = auto()  # it does not let this address in for a while, as it seems
    BAD = auto()  # it did not answer well, for another reason
    NONE = auto()  # nothing, as a kept connection that was closed


_TURNED_AWAY = (Sign.BUSY, Sign.FORBIDDEN)


class Ticket:
    """Lets one attempt through; *sent* in the clock's seconds."""

    __slots__ = ("given_up", "limit", "member", "number", "sent")

    def __init__(self, number: int, limit: float, sent: float, *, member: bool) -> None:
        self.number, self.limit, self.sent, self.member = number, limit, sent, member
        self.given_up = False


@dataclass
class Seen:
    """What a gate has seen so far, for reports."""

    most_in_flight: int = 0
    turned_away: int = 0
    outages: int = 0
    pauses: int = 0


class Limiter:
    """Lets attempts through within the *law*, *max_rps*, the pauses that were asked for, and a breaker.

    *ceiling* is how many may be in flight at all, those given up included; the law is to stay within it.
    The requests a second are a token bucket that holds a tenth of a second, at least one request. *later* calls back
    after so many seconds of *clock*, *draw* gives random numbers from 0 to 1, *tell* takes events for the log.
    """

    def __init__(
        self,
        law: Law,
        *,
        max_rps: float,
        ceiling: float = math.inf,
        clock: Clock,
        later: Later,
        draw: Callable[[], float],
        tell: Callable[..., None] = lambda event, **fields: None,
        guarded: bool = True,
    ) -> None:
        self.seen = Seen()
        self.round_trips = RoundTrips()
        self._strays = 0  # given up as slots, and still on their way
        self._ceiling = ceiling
        self.rtt_s = 0.0  # the mean of late; 0 while nothing is known
        self._interval = 1 / max_rps if max_rps else 0.0
        self._burst = max(self._interval, 0.1)
        self._clock, self._later, self._draw, self._tell = clock, later, draw, tell
        self._guarded = guarded
        self._breaker = Breaker()
        self._adopt(law)
        self._before_outage = law
        self._good_at = 0.0
        self._next = self._next_paced = clock()
        self._paused_until = 0.0
        self._open: dict[Ticket, None] = {}
        self._in_flight = 0
        self._again: deque[asyncio.Future[Ticket | None]] = deque()
        self._new: deque[asyncio.Future[Ticket | None]] = deque()
        self._dismissed = self._closed = False
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0
        self._number = self._cut = 0
        self._goods: deque[float] = deque(maxlen=MOST_GOODS)
        self._throttled = self._throttled_at = 0.0
        self._begin_round()

    @property
    def in_flight(self) -> int:
        """How many attempts have been let through and not yet released, nor given up."""
        return self._in_flight

    @property
    def law(self) -> Law:
        """The limit as it now is."""
        return self._law

    @property
    def is_open(self) -> bool:
        """Whether the breaker holds everything back but one probe at a time."""
        return self._breaker.is_open

    @property
    def outage_s(self) -> float:
        """For how long the breaker has been open; 0 while it is not."""
        return self._clock() - self._breaker.since if self._breaker.since is not None else 0.0

    @property
    def pause_s(self) -> float:
        """How long the pause that was asked for still lasts."""
        return max(0.0, self._paused_until - self._clock())

    def enter(self) -> Ticket | None:
        """Return a ticket if an attempt may start now; or none, and then `acquire` waits for one."""
        now = self._clock()
        # Those that wait for a first attempt have no row yet: whoever is here already need not queue behind them.
        if self._again or self._closed or self._opens_at(now) > now + _MOMENT_S:
            return None
        return self._admit(now)

    async def acquire(self, *, again: bool = False) -> Ticket | None:
        """Return a ticket when an attempt may start, or none when nobody may any more; repeated attempts go first.

        Whoever has a ticket must `release` it.
        """
        if self._closed or (self._dismissed and not again):
            self.pass_on()  # what it released before, it was left
            return None
        if (ticket := self.enter()) is not None:
            return ticket
        turn: asyncio.Future[Ticket | None] = asyncio.get_running_loop().create_future()
        (self._again if again else self._new).append(turn)
        self._pump()
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and (ticket := turn.result()) is not None:
                self.release(ticket, Sign.NONE, 0.0)
                self.pass_on()
            raise

    def dismiss(self) -> None:
        """Turn away those that wait for a first attempt: there is no row left for them."""
        self._dismissed = True
        _send_away(self._new)

    def close(self) -> None:
        """Turn away everybody from now on; those that were let through are still released."""
        self._closed = True
        _send_away(self._new)
        _send_away(self._again)
        if self._timer is not None:
            self._timer.cancel()

    def reopen(self) -> None:
        """Let first attempts through again."""
        self._dismissed = False

    def release(self, ticket: Ticket, sign: Sign, took_s: float, *, pause_s: float = 0.0) -> None:
        """Say that an attempt ended so, how long it took, and for how long its answer asked everybody to wait.

        The place stays free for whoever released it, and asks again at once or else says `pass_on`: waking another
        would cost each request a turn of the event loop.
        """
        now = self._clock()
        good = sign is Sign.GOOD
        if good:
            self.round_trips.add(took_s)
        if good and not self._breaker.bad and not self._breaker.is_open:
            self._good_at, self._before_outage = now, self._law
            if self._throttled and ticket.sent > self._throttled_at:
                self._throttled = 0.0  # it let us in again by itself
        elif sign is not Sign.NONE:
            self._not_only_good(sign, now, pause_s)
        if ticket.given_up:
            self._strays -= 1
        else:
            del self._open[ticket]
            if not good and self._hurried(sign, took_s):
                # What fails at once must not make room at once, or failures are all there will be.
                self._later(self.rtt_s - took_s, self._make_room)
            else:
                self._in_flight -= 1
            if ticket.member and ticket.number == self._number:
                self._outstanding -= 1
        if not self._breaker.is_open:
            if good:
                self._learn(ticket, now, took_s)
            if sign is Sign.BUSY and ticket.number > self._cut:
                self._end_round(now, busy=1, limit=ticket.limit, pause_s=pause_s)
                self._cut = self._number - 1
            elif not self._quota and not self._outstanding and not self._overdue(now):
                self._end_round(now)
        if self._in_flight < self._room - 1:
            self._pump(leaving=1)

    def _not_only_good(self, sign: Sign, now: float, pause_s: float) -> None:
        """Heed what an answer says beyond all being well as before."""
        self.seen.turned_away += sign in _TURNED_AWAY
        if pause_s:
            self._pause(pause_s, now)
        if sign is Sign.FORBIDDEN and not self._throttled and not self._breaker.is_open:
            self._throttled, self._throttled_at = self._delivered_over(1.0, now), now
        if self._guarded and not pause_s:
            self._guard(good=sign is Sign.GOOD, now=now)

    def _hurried(self, sign: Sign, took_s: float) -> bool:
        return sign is not Sign.NONE and took_s < self.rtt_s and not self._breaker.is_open and not self._closed

    def pass_on(self) -> None:
        """Let those that wait have the place that was just released."""
        self._pump()

    def _pause(self, seconds: float, now: float) -> None:
        """Let nobody through for so long from now on; a longer pause that runs already stays."""
        if now + seconds > self._paused_until:
            if self._paused_until <= now:
                self.seen.pauses += 1
                self._tell("endpoint.pause", seconds=round(seconds, 1))
            self._paused_until = now + seconds

    def _worth(self, lost_s: float) -> int:
        """Return for how many rounds it must go well to have been worth losing so many seconds."""
        return math.ceil(min(lost_s, LONGEST_WORTH_S) / LOSS / (1.5 * self.rtt_s)) if self.rtt_s else 0

    def _delivered_over(self, seconds: float, now: float) -> float:
        """Return how many of those in flight were answered well, on average over the last *seconds*."""
        if seconds <= 0:
            return 0.0
        found = sum(1 for _ in takewhile(lambda at: at > now - seconds, reversed(self._goods)))
        return found / seconds * self.rtt_s

    def _overdue(self, now: float) -> bool:
        """Return whether some request takes so long that it may not be answered at all."""
        return bool(self._open) and now - next(iter(self._open)).sent > 2 * self.rtt_s

    def _make_room(self) -> None:
        self._in_flight -= 1
        self._pump()

    def _guard(self, *, good: bool, now: float) -> None:
        was = self._breaker
        quiet = now - self._good_at > 2 * self.rtt_s
        if good:
            self._good_at = now
        self._breaker = was.after(
            good=good, allowed=self._room, quiet=quiet, now=now, draw=0.0 if good else self._draw()
        )
        if good and not was.is_open:
            self._before_outage = self._law
        elif self._breaker.is_open and not was.is_open:
            self.seen.outages += 1
            self._adopt(self._law)
            self._tell("breaker.opened", seconds=round(self._breaker.until - now, 2))
        elif was.is_open and not self._breaker.is_open:
            lost_s = now - (was.since or now)
            self._adopt(self._before_outage.after_outage(self._throttled, self._worth(lost_s)))
            self._throttled = 0.0
            self._tell("breaker.closed", seconds=round(lost_s, 1), limit=round(self._law.value, 1))
            self._cut = self._number
            self._begin_round()

    def _learn(self, ticket: Ticket, now: float, took_s: float) -> None:
        share = 1 / max(10, self._room) if self.rtt_s else 1.0
        self.rtt_s += share * (took_s - self.rtt_s)
        self._goods.append(now)
        if ticket.member and ticket.number == self._number and not ticket.given_up:
            self._answers += 1
            y = math.log(max(took_s, 1e-6))
            off = y - self._mean
            self._mean += off / self._answers
            self._spread += off * (y - self._mean)
        while self._open and (oldest := next(iter(self._open))).sent < min(ticket.sent, now - LATE * self.rtt_s):
            # Later ones are answered; were none, nothing would be given up, and the limit would hold.
            del self._open[oldest]
            oldest.given_up = True
            self._in_flight -= 1
            self._strays += 1
            if oldest.number == self._number:
                self._missing += 1
                self._outstanding -= oldest.member

    def _begin_round(self) -> None:
        limit = self._law.value
        self._number += 1
        least = limit * ROUND_S / self.rtt_s if self.rtt_s else 0.0
        self._quota = max(1, math.ceil(limit * ROUND_SHARE), math.ceil(least))
        self._outstanding = self._answers = self._missing = 0
        self._reached = False
        self._mean = self._spread = 0.0

    def _end_round(self, now: float, *, busy: int = 0, limit: float = 0.0, pause_s: float = 0.0) -> None:
        over_s = 1.0 if pause_s else min(1.0, max(DELIVERED_OVER, DELIVERED_AMONG / self._room) * self.rtt_s)
        self._adopt(
            self._law.after(
                Round(
                    limit=limit or self._law.value,
                    answers=self._answers,
                    mean=self._mean,
                    spread=self._spread,
                    missing=self._missing,
                    busy=busy,
                    delivered=self._delivered_over(over_s, now) if busy else 0.0,
                    rests=self._worth(pause_s),
                    reached=self._reached,
                )
            )
        )
        self._begin_round()

    def _adopt(self, law: Law) -> None:
        """Keep to *law* from now on, or to one probe at a time while the breaker is open."""
        self._law = law
        value = law.value
        self._paces = law.paced or value < 1
        within = math.ceil(value - 1e-9) if law.paced else math.floor(value + 1e-9)
        self._room = 1 if self._breaker.is_open else max(1, within)

    def _opens_at(self, now: float) -> float:
        """Return when the next attempt may start, by what is known now."""
        if self._in_flight >= self._room or self._in_flight + self._strays >= self._ceiling:
            return math.inf
        at = self._paused_until
        if self._breaker.is_open:
            at = max(at, self._breaker.until)
        if self._paces and self.rtt_s:
            at = max(at, self._next_paced)
        if self._interval:
            at = max(at, self._next, now - self._burst + self._interval)
        return at

    def _admit(self, now: float) -> Ticket:
        if self._interval:
            self._next = max(self._next, now - self._burst + self._interval) + self._interval
        if self._paces and self.rtt_s:
            self._next_paced = max(self._next_paced, now - _SLACK_S) + self.rtt_s / self._law.value
        self._in_flight += 1
        self.seen.most_in_flight = max(self.seen.most_in_flight, self._in_flight + self._strays)
        member = self._quota > 0 and not self._breaker.is_open
        ticket = Ticket(self._number, self._law.value, now, member=member)
        self._open[ticket] = None
        if member:
            self._quota -= 1
            self._outstanding += 1
        # At a pace, those that wait show that it holds them back.
        self._reached = (
            self._reached
            or self._in_flight >= self._room
            or (self._paces and not self._interval and bool(self._again or self._new))
        )
        return ticket

    def _pump(self, *, leaving: int = 0) -> None:
        """Let through those that wait, as far as that goes now, *leaving* so many places; come back when it goes on."""
        while (self._again or self._new) and self._in_flight + leaving < self._room:
            now = self._clock()
            at = self._opens_at(now)
            if at > now + _MOMENT_S:
                if at < math.inf:
                    self._come_back(now, at)
                return
            turn = (self._again or self._new).popleft()
            if not turn.done():
                turn.set_result(self._admit(now))

    def _come_back(self, now: float, at: float) -> None:
        if self._timer is not None:
            if self._due <= at + _MOMENT_S:
                return
            self._timer.cancel()
        self._due = at
        self._timer = self._later(at - now, self._on_time)

    def _on_time(self) -> None:
        self._timer = None
        self._pump()


def _send_away(turns: deque[asyncio.Future[Ticket | None]]) -> None:
    while turns:
        turn = turns.popleft()
        if not turn.done():
            turn.set_result(None)
