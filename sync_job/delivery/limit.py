"""How many requests may be in flight at once: a number, and how it learns from what came back. Pure.

The law looks for the elasticity of the round trip: by how much it grows, in logarithms, when the limit does. At 0 more
in flight is more delivered; at 1 it only waits longer. So a growth is a trial that must pay, and so is a shrinking.
When a round is over, and what was in it, is the gate's to say (`limiter`).
"""

import math
from dataclasses import dataclass, replace
from typing import Protocol, Self

GROWTH_PAYS = 0.6  # up to this elasticity: goodput then rises by 0.4 of the limit's growth
SHRINKING_PAYS = 0.85  # from this on: goodput then falls by less than a sixth of what the limit does
PRECISE = 0.4  # an error of the elasticity that is small enough; until then earlier rounds are drawn in
TRIAL_ROUNDS = 4  # a trial that is not clear by then is decided as it stands
REST_ROUNDS, LONGEST_REST_ROUNDS = 2, 12  # between trials; each that fails doubles it
SHORT_REST_ROUNDS = 2  # the longest while much more went well before in this run
LEAST_STRIDE = 0.25  # of a full stride, after failures
LEAST_STRIDE_BACK = 0.5  # likewise, while much more went well before in this run
KEPT = 0.95  # of what was delivered in flight, when requests are turned away
MEMORY = 4  # limits that were tried, and the answers kept of each
ANSWERS = 100
DOUBT = 1.0  # errors that an elasticity must be beyond what is asked of it, for a trial to have failed
LEAST = 0.01
FAR_BELOW = 0.6  # of what has paid in this run: the way back is taken in larger strides
EDGE = 0.98  # of the limit at which requests were turned away: up to there it is known to be well
RANGE = 0.9  # of log limits that are compared: further back the endpoint was another one
_NOISE, _NOISE_WEIGHT = 0.2, 2.0  # what is believed of the round trip's spread before it is known


@dataclass(frozen=True, slots=True)
class Round:
    """What came of the requests that were sent in one round under one *limit*.

    *answers* of them were answered; *mean* and *spread* are of the natural logarithms of their round trips in seconds
    (the latter the sum of squared deviations). *missing*: not answered long after the others. *busy*: turned away.
    *delivered*: how many of those in flight were answered well, on average over time. *reached*: the limit held back
    others meanwhile. *rests*: for so many rounds it must go well to be worth what the last answer cost.
    """

    limit: float
    answers: int = 0
    mean: float = 0.0
    spread: float = 0.0
    missing: int = 0
    busy: int = 0
    delivered: float = 0.0
    reached: bool = True
    rests: int = 0


class Law(Protocol):
    """What a gate keeps to."""

    @property
    def value(self) -> float:
        """How many may be in flight; below 1 it is a pace: one in flight, and a pause after it."""
        ...

    @property
    def paced(self) -> bool:
        """Whether requests are spread evenly over the round trip, instead of following answers."""
        ...

    @property
    def met(self) -> bool:
        """Whether more was tried, and did not do."""
        ...

    def after(self, round_: Round) -> Self:
        """Return the limit that follows from one more round."""
        ...

    def after_outage(self, throttled: float, rests: int) -> Self:
        """Return the limit to begin with when an endpoint that was gone has come back.

        *throttled*: it had shut this sender out, at so many delivered in flight; 0 where it was simply gone. The
        outage was worth so many *rests*.
        """
        ...


@dataclass(frozen=True, slots=True)
class Fixed:
    """A limit that learns nothing."""

    value: float
    paced: bool = False
    met: bool = False

    def after(self, round_: Round) -> Self:
        """Return the same."""
        return self

    def after_outage(self, throttled: float, rests: int) -> Self:
        """Return the same."""
        return self


@dataclass(frozen=True, slots=True)
class Limit:
    """An adaptive limit up to *ceiling*. *base* is what has paid so far; another *value* is on trial."""

    ceiling: float
    value: float = 1.0
    base: float = 1.0
    paced: bool = False
    history: tuple[Round, ...] = ()
    tried: int = 0
    rest: int = 0
    patience: int = REST_ROUNDS
    stride: float = 1.0
    down: bool = False
    known: float = 0.0
    edge: float = 0.0
    before: float = 0.0

    @classmethod
    def starting(cls, at: float, ceiling: float) -> Self:
        """Return a limit that begins at *at*, within 1 and *ceiling*."""
        value = min(max(1.0, at), ceiling)
        return cls(ceiling, value, value)

    @property
    def met(self) -> bool:
        """Whether more was tried, and did not do."""
        return self.edge > 0

    def after(self, round_: Round) -> Self:
        """Return the limit that follows from one more round."""
        if round_.busy:
            return self._turned_away(round_)
        if not round_.answers:
            return self
        now = replace(self, history=_with(self.history, round_))
        if not round_.reached:
            # An idle pipe says nothing about the endpoint.
            return replace(now, value=self.base, tried=0)
        if self.value == self.base:
            rested = replace(now, rest=max(0, self.rest - 1))
            return rested._try() if not rested.rest or (not self.down and self.base < 0.99 * self.edge) else rested
        return now._judge(round_)

    def after_outage(self, throttled: float, rests: int) -> Self:
        """Return half of what has paid, and nothing of what was learned; or just below what got it shut out."""
        if throttled:
            base = min(self.base, max(LEAST, KEPT * throttled))
            return replace(self._failed(rests), value=base, base=base, edge=base, history=(), paced=True)
        base = max(min(1.0, self.base), self.base / 2)
        return replace(self, value=base, base=base, history=(), tried=0, stride=1.0, down=False)

    def _judge(self, last: Round) -> Self:
        """Return what follows from the trial as it stands."""
        up = self.value > self.base
        if up and self.value <= self.edge and not last.missing:
            return replace(self, base=self.value, stride=min(1.0, 2 * self.stride))._try()
        slope, error = elasticity(self.history)
        bar = GROWTH_PAYS if up else SHRINKING_PAYS
        if last.missing:
            return self._failed()
        if self.paced and self.history[-1].answers < self.value:
            return self  # not all that it let through has been answered
        paid = slope <= bar if up else slope >= bar
        if not paid and abs(slope - bar) < DOUBT * error and self.tried < TRIAL_ROUNDS:
            return replace(self, tried=self.tried + 1)
        if paid:
            grown = replace(
                self,
                base=self.value,
                before=self.base if up else 0.0,
                known=max(self.known * 0.99, self.value),
                patience=REST_ROUNDS if self.value > 1.3 * self.edge else self.patience,
                stride=min(1.0, 2 * self.stride),
            )
            return grown._try()
        # That less does not do says nothing of more.
        return replace(self._failed(), down=up, edge=self.base if up or self.edge else 0.0)

    def _try(self) -> Self:
        """Return a trial of more, or of less."""
        least = min(1.0, self.base) * (self.stride if self.paced else 1.0)
        if self.down:
            value = max(min(1.0, self.base), self.base - max(least, self.stride * self.base / 5))
        else:
            full = self.base / (2 if self.base < FAR_BELOW * self.known else 5)
            value = min(self.ceiling, self.base + max(least, self.stride * full))
            if self.rest > 0:
                value = min(value, self.edge)
        if value == self.base and self.down:
            return replace(self, value=value, down=False)
        if value <= self.base and not self.down:
            # There is no room above: look whether less would do, where that is for the round trips to say.
            return replace(self, value=self.base, down=self.base == self.ceiling, rest=max(self.rest, self.patience))
        return replace(self, value=value, tried=0)

    def _failed(self, rests: int = 0) -> Self:
        back = self.base < FAR_BELOW * self.known
        longest = SHORT_REST_ROUNDS if back else LONGEST_REST_ROUNDS
        return replace(
            self,
            value=self.base,
            edge=self.base,
            tried=0,
            rest=max(min(self.patience, longest), rests),
            patience=min(2 * self.patience, LONGEST_REST_ROUNDS),
            stride=max(LEAST_STRIDE_BACK if back else LEAST_STRIDE, self.stride / 2),
            down=False,
        )

    def _turned_away(self, round_: Round) -> Self:
        failed = replace(self._failed(round_.rests), paced=True)
        if round_.limit > self.base and not round_.rests:
            return failed
        if self.base / 2 <= self.before <= min(self.base, round_.delivered / KEPT) and not round_.rests:
            # The last growth was one too many; what was before it is delivered.
            return replace(failed, value=self.before, base=self.before, edge=self.before, before=0.0, history=())
        least = min(1.0, self.base) if not round_.delivered else LEAST if round_.rests else self.base / 2
        base = max(LEAST, least, min(self.base, KEPT * round_.delivered))
        edge = EDGE * max(base, min(self.base, round_.delivered))
        return replace(failed, value=base, base=base, edge=edge, before=0.0, stride=LEAST_STRIDE, history=())


def _with(history: tuple[Round, ...], new: Round) -> tuple[Round, ...]:
    """Return *history*, one entry for each stretch under one limit, with one more round."""
    if not history or history[-1].limit != new.limit:
        return (*history, new)[-MEMORY:]
    last = history[-1]
    kept = min(last.answers, max(0, ANSWERS - new.answers))
    both = kept + new.answers
    off = new.mean - last.mean
    spread = last.spread * kept / last.answers + new.spread + off * off * kept * new.answers / both
    merged = replace(new, answers=both, mean=last.mean + off * new.answers / both, spread=spread)
    return (*history[:-1], merged)


def elasticity(rounds: tuple[Round, ...]) -> tuple[float, float]:
    """Return the slope of log round trip over log limit, and its standard error.

    From the latest rounds alone where they are clear; the noisier the round trips, the further back it looks.
    """
    freedom = sum(max(0, one.answers - 1) for one in rounds)
    variance = (sum(one.spread for one in rounds) + _NOISE_WEIGHT * _NOISE**2) / (freedom + _NOISE_WEIGHT)
    weight = x1 = y1 = xx = xy = 0.0
    slope, error = 0.0, math.inf
    last = rounds[-1].limit
    for one in reversed(rounds):
        x, n = math.log(one.limit / last), one.answers
        if error < math.inf and abs(x) > RANGE:
            break
        weight, x1, y1 = weight + n, x1 + n * x, y1 + n * one.mean
        xx, xy = xx + n * x * x, xy + n * x * one.mean
        across = xx - x1 * x1 / weight
        if across > 1e-9:
            slope, error = (xy - x1 * y1 / weight) / across, math.sqrt(variance / across)
            if error < PRECISE:
                break
    return slope, error
