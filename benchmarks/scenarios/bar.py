"""What is asked of our sender in every scenario, where it misses that, and why."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from benchmarks.scenarios.catalogue import Scenario
from benchmarks.scenarios.measures import Figures
from benchmarks.scenarios.play import OURS
from benchmarks.scenarios.rivals import RIVALS
from benchmarks.scenarios.tournament import Results, Summary

WHOLE, SETTLED = 0.85, 0.95  # of the capacity, at least
OVERSHOOT, OVER = 0.2, 1  # at most, or one request where that is more: less than one cannot be tried
RECOVERY_S = 2.0
BEHIND = 0.005  # of the capacity; a rival that is better by less is as good

_STARTS = "they begin at 10 or 20, which happens to be about right here; ours begins at 1"
_UNSPENT = (
    "nothing is refused and waiting costs them nothing, so they keep the queue full; ours tries whether less does"
)
_NOISE = "with noisy answers a trial needs earlier rounds to be judged, and those were of fewer in flight: one or two \
strides too many are taken for good, and taken back only when trials of less come up"
_TRIAL = "the smallest trial is the sixth request, a fifth more; each costs six or seven refusals, and one comes every \
twelve rounds"
_RATE = "turned away, it goes on with 0.95 of what was delivered in the last second, and another {} would cost more \
than the 2 % of the time that may be spent on finding out"

WHY = {
    ("constant-link", "whole"): "3 s of which 2.4 are ramp: from 1 to 32 in strides of a fifth, by choice, so that no \
endpoint sees much more than that beyond its limit",
    ("constant-link", "settled"): "the ramp takes 0.4 s longer than the 2 s after which it should be settled",
    ("constant-link", "rivals"): f"{_STARTS}. Fixed(64) goes beyond the ceiling that is the capacity here",
    ("fixed-concurrency-simple", "rivals"): f"{_STARTS}: the whole difference is the first second",
    (
        "fixed-concurrency-jitter",
        "whole",
    ): "answers that spread by a third, at rounds of one to five of them: with some \
seeds a trial fails by chance at 3 or 4 in flight, and rests until the next",
    ("fixed-concurrency-jitter", "settled"): "as above: with the worst seed 10 are reached after 4 s instead of 2",
    ("fixed-concurrency-jitter", "rivals"): f"{_STARTS}",
    ("jittery-link-small", "whole"): "5 s of which 2 are ramp, as constant-link",
    ("jittery-link-small", "settled"): "as constant-link: with some seeds the ramp takes longer than 2 s",
    ("jittery-link-small", "rivals"): f"{_STARTS}. Fixed(64) goes beyond the ceiling that is the capacity here",
    ("defers-at-high-concurrency", "settled"): _TRIAL,
    (
        "defers-at-high-rate",
        "overshoot",
    ): "the limiter lets a tenth of a second through at once, ten requests, before it \
refuses: more in flight is answered well for a while",
    ("defers-at-high-rate", "rivals"): "it is refused four times as often, and begins at 20",
    (
        "shallow-knee",
        "overshoot",
    ): "four more in flight cost 4 % of what is delivered, which takes a few rounds to show",
    ("medium-send", "overshoot"): "rows that came in while the limit was 1 are caught up with, for a moment at 6",
    ("medium-send", "rivals"): f"{_STARTS}: 0.1 s in all",
    ("step-refused", "settled"): "the way back, see recovery",
    ("step-refused", "overshoot"): "as defers-at-high-rate: 20 requests pass at once before one is refused",
    ("step-refused", "recovery"): "from 2 in flight back to 22 are nine strides, the first ones half as long after \
refusals, and two rounds of rest after each trial that fails; with the worst seed one does by chance",
    ("step-refused", "rivals"): f"the way back; and {_STARTS}. Vegas is refused three times as often",
    ("step-slow", "overshoot"): _NOISE,
    ("step-slow", "rivals"): _UNSPENT,
    ("recycle", "overshoot"): _NOISE,
    ("recycle", "rivals"): "they go on sending into the outage (Fixed about 200 times a second) and so see \
its end at once; ours asks once a second, needs three good answers, and goes on with half; the rest as deep-queue",
    ("deep-queue", "overshoot"): _NOISE,
    ("deep-queue", "rivals"): _UNSPENT,
    ("noisy-neighbour", "whole"): "as fixed-concurrency-jitter: with the worst seed trials fail by chance in the first \
three seconds",
    ("noisy-neighbour", "settled"): "the way back from 6 to 16 takes longer than 2 s where trials fail by chance",
    ("noisy-neighbour", "overshoot"): "16 and more stay in flight where 6 would do: round trips grow under the same \
limit, and it learns from changes of the limit alone. It costs waiting, no refusals",
    ("noisy-neighbour", "rivals"): f"{_UNSPENT}, and for most of the time that is right here",
    (
        "address-403",
        "whole",
    ): "the first block costs its 5 s, of 49 in all, and probes find its end up to a second later",
    ("address-403", "settled"): _RATE.format("block"),
    (
        "address-403",
        "overshoot",
    ): "nothing tells of the limit before the 101st request within a second: until then more \
in flight is more delivered",
    ("retry-after", "settled"): _RATE.format("pause"),
    ("retry-after", "overshoot"): "nothing tells of the quota before the 61st request of the first second",
    (
        "retry-after",
        "rivals",
    ): "64 at once fit the quota of each second by chance: all 60 are taken in the first moment, \
and it waits for the next, with an eighth of its requests refused",
}


@dataclass(frozen=True)
class Miss:
    """A *figure* of a scenario that is not what is asked, and why; all as text."""

    scenario: str
    figure: str
    measured: str
    asked: str

    @property
    def why(self) -> str:
        """The reason, as far as it is known."""
        return WHY.get((self.scenario, self.figure), "**not explained**")


def misses(scenarios: Sequence[Scenario], results: Results) -> Iterator[Miss]:
    """Yield each figure of ours that misses the bar with its worst seed, or where a rival does better on average."""
    for scenario in scenarios:
        ours = results[scenario.name, OURS.name]
        yield from _own(scenario.name, ours)
        better = [
            f"{rival.name} {gap:+.1%}"
            for rival in RIVALS
            if (gap := results[scenario.name, rival.name].mean(_whole) - ours.mean(_whole)) > BEHIND
        ]
        if better:
            yield Miss(scenario.name, "rivals", ", ".join(better), "none better")


def _own(scenario: str, ours: Summary) -> Iterator[Miss]:
    if (whole := ours.least(_whole)) < WHOLE:
        yield Miss(scenario, "whole", f"{whole:.1%}", f"at least {WHOLE:.0%}")
    if (settled := ours.least(lambda one: one.settled)) < SETTLED:
        yield Miss(scenario, "settled", f"{settled:.1%}", f"at least {SETTLED:.0%}")
    if (most := ours.most(lambda one: one.overshoot)) > OVERSHOOT + 1e-9 and (
        over := ours.most(lambda one: one.over)
    ) > OVER:
        yield Miss(
            scenario, "overshoot", f"{most:.0%}, {over:.0f} requests", f"at most {OVERSHOOT:.0%}, or one request"
        )
    if (recovery_s := ours.most(lambda one: one.recovery_s)) > RECOVERY_S:
        yield Miss(scenario, "recovery", f"{recovery_s:.1f} s", f"at most {RECOVERY_S:g} s")
    if lost := ours.most(lambda one: one.lost):
        yield Miss(scenario, "lost", f"{lost:.0f} rows", "none")


def _whole(figures: Figures) -> float:
    return figures.whole
