"""Our law and gate with one rule taken away at a time, to see what each is worth.

Nothing of the product is changed: a rule goes by a constant that is set while a scenario is played, or by a law or a
gate that is not told, or forgets, what the rule needs.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from math import inf
from types import ModuleType
from typing import Any, ClassVar, Self

from benchmarks.scenarios.play import OURS, Contender
from sync_job.delivery import limit, limiter, pool
from sync_job.delivery.breaker import Breaker
from sync_job.delivery.limit import Law, Limit, Round
from sync_job.delivery.limiter import Limiter, Sign, Ticket


@contextmanager
def _set(values: tuple[tuple[ModuleType, str, Any], ...]) -> Iterator[None]:
    """Let these modules have other constants for a while."""
    before = [(module, name, getattr(module, name)) for module, name, _ in values]
    try:
        for module, name, value in values:
            setattr(module, name, value)
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)


def _with(rule: str, *values: tuple[ModuleType, str, Any]) -> Contender:
    """Return ours with other constants."""
    return replace(OURS, name=rule, around=partial(_set, values))


def _of(rule: str, law: type[Limit]) -> Contender:
    """Return ours with another law."""
    return replace(OURS, name=rule, law=lambda scenario: law.starting(1.0, scenario.ceiling))


class _Changed(Limit):
    """A limit that *hears* other values than there are, and *forgets* some that it has."""

    hears: ClassVar[dict[str, Any]] = {}
    forgets: ClassVar[dict[str, Any]] = {}

    def after(self, round_: Round) -> Self:
        return replace(super().after(replace(round_, **self.hears)), **self.forgets)

    def after_outage(self, throttled: float, rests: int) -> Self:
        return replace(super().after_outage(throttled, rests), **self.forgets)


class _Unpaced(_Changed):
    forgets: ClassVar[dict[str, Any]] = {"paced": False}


class _NeverLess(_Changed):
    forgets: ClassVar[dict[str, Any]] = {"down": False}


class _Edgeless(_Changed):
    forgets: ClassVar[dict[str, Any]] = {"edge": 0.0}


class _NoStepBack(_Changed):
    forgets: ClassVar[dict[str, Any]] = {"before": 0.0}


class _Trusting(_Changed):
    hears: ClassVar[dict[str, Any]] = {"missing": 0}


class _Idle(_Changed):
    hears: ClassVar[dict[str, Any]] = {"reached": True}


class _Blind(Limit):
    """Goes on with 0.7 when turned away, whatever was delivered."""

    def _turned_away(self, round_: Round) -> Self:
        delivered = 0.7 * self.base / limit.KEPT
        return replace(self, before=0.0)._cut(replace(round_, delivered=delivered))

    def _cut(self, round_: Round) -> Self:
        return super()._turned_away(round_)


class _Hasty(Limit):
    """Judges at a pace before all that was let through has been answered."""

    def _judge(self, last: Round) -> Self:
        return replace(replace(self, paced=False)._judge_at_once(last), paced=self.paced)

    def _judge_at_once(self, last: Round) -> Self:
        return super()._judge(last)


class _Unashamed(Limit):
    """Forgets at how many in flight it was shut out."""

    def after_outage(self, throttled: float, rests: int) -> Self:
        return super().after_outage(0.0, rests)


class _Undaunted(Limit):
    """Goes on after an outage as before it."""

    def after_outage(self, throttled: float, rests: int) -> Self:
        if throttled:
            return super().after_outage(throttled, rests)
        return replace(self, value=self.base, history=(), tried=0, stride=1.0, down=False)


class _Spinning(Limiter):
    """Makes room as soon as a refusal is there."""

    def __init__(self, law: Law, *, later: limiter.Later, **rest: Any) -> None:
        super().__init__(law, later=lambda s, call: later(0.0 if call == self._make_room else s, call), **rest)


class _Closing(Limiter):
    """Ends a round though some request is overdue."""

    def _overdue(self, now: float) -> bool:
        return False


class _Remembering(Limiter):
    """Takes a refusal of a request that was sent before the last cut for one more."""

    def release(self, ticket: Ticket, sign: Sign, took_s: float, *, pause_s: float = 0.0) -> None:
        self._cut = 0
        super().release(ticket, sign, took_s, pause_s=pause_s)


class _Nervous(Breaker):
    """Opens while good answers still come."""

    def after(self, *, quiet: bool, **rest: Any) -> Self:
        return super().after(quiet=True, **rest)


CONTENDERS = (
    _with("growth is judged: it must pay", (limit, "GROWTH_PAYS", inf)),
    _of("trials of less", _NeverLess),
    _with("earlier rounds are drawn in where it is noisy", (limit, "PRECISE", inf)),
    _with("limits far off are not compared", (limit, "RANGE", inf)),
    _with("a trial goes on until it is clear", (limit, "TRIAL_ROUNDS", 0)),
    _with("rests that double", (limit, "LONGEST_REST_ROUNDS", 2), (limit, "SHORT_REST_ROUNDS", 2)),
    _with("shorter rests on the way back", (limit, "SHORT_REST_ROUNDS", limit.LONGEST_REST_ROUNDS)),
    _with("larger strides and shorter rests on the way back", (limit, "FAR_BELOW", 0.0)),
    _with("smaller strides after failures", (limit, "LEAST_STRIDE", 1.0), (limit, "LEAST_STRIDE_BACK", 1.0)),
    _with("strides stay larger on the way back", (limit, "LEAST_STRIDE_BACK", limit.LEAST_STRIDE)),
    _of("idle rounds say nothing", _Idle),
    _of("missing answers end a trial", _Trusting),
    _with("late requests are given up", (limiter, "LATE", inf)),
    _with("no round ends while a request is overdue", (pool, "Limiter", _Closing)),
    _with("a round is at least 20 ms", (limiter, "ROUND_S", 0.0)),
    _of("cut to what was delivered (else 0.7)", _Blind),
    _of("cut to what was before the last growth", _NoStepBack),
    _with("cut a little below what was delivered", (limit, "KEPT", 1.0)),
    _with("cut once for all that was sent before", (pool, "Limiter", _Remembering)),
    _of("the edge", _Edgeless),
    _of("pacing after refusals", _Unpaced),
    _of("at a pace, all is answered before judging", _Hasty),
    _with("a refusal at once keeps its slot", (pool, "Limiter", _Spinning)),
    _with("rests are worth what a pause or a block cost", (limiter, "LOSS", inf)),
    replace(OURS, name="the breaker", guarded=False),
    _with("the breaker opens in silence only", (limiter, "Breaker", _Nervous)),
    _of("half of the limit after an outage", _Undaunted),
    _of("what got it shut out is remembered", _Unashamed),
)
