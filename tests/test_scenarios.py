"""Our sender keeps to its floors in every scenario, the rivals are the laws they claim to be, the page shows both."""

import math
from pathlib import Path

import pytest

from benchmarks.scenarios import ablation
from benchmarks.scenarios.catalogue import BY_NAME, SCENARIOS, Scenario
from benchmarks.scenarios.play import Contender, play
from benchmarks.scenarios.rivals import RIVALS, Aimd, Gradient2, Vegas
from sync_job.delivery.limit import Fixed, Round

PAGE = Path(__file__).resolve().parent.parent / "docs" / "delivery.md"
SEEDS = range(3)
DESIGN = """
constant-link fixed-concurrency-simple fixed-concurrency-jitter jittery-link-small defers-at-high-concurrency
drops-at-high-concurrency defers-at-high-rate shallow-knee slow-link medium-send slow-send-1 slow-send-2
step-refused step-slow recycle deep-queue noisy-neighbour address-403 retry-after
"""

# Of the worst seed, just beyond what was measured. Whole and settled: at least; overshoot and the share of requests
# that are turned away: at most; recovery in seconds: at most, 0 where no capacity returns.
FLOORS = {
    #                             whole  settled overshoot away   recovery
    "constant-link":              (0.51, 0.93,   0.00,     0.000, 0.0),
    "fixed-concurrency-simple":   (0.88, 0.98,   0.00,     0.000, 0.0),
    "fixed-concurrency-jitter":   (0.69, 0.81,   0.00,     0.000, 0.0),
    "jittery-link-small":         (0.66, 0.94,   0.00,     0.000, 0.0),
    "defers-at-high-concurrency": (0.88, 0.92,   0.20,     0.090, 0.0),
    "drops-at-high-concurrency":  (0.95, 0.98,   0.20,     0.012, 0.0),
    "defers-at-high-rate":        (0.94, 0.98,   0.40,     0.020, 0.0),
    "shallow-knee":               (0.93, 0.98,   0.40,     0.000, 0.0),
    "slow-link":                  (0.99, 0.99,   1.00,     0.000, 0.0),
    "medium-send":                (0.99, 0.99,   0.50,     0.000, 0.0),
    "slow-send-1":                (0.99, 0.99,   0.00,     0.000, 0.0),
    "slow-send-2":                (0.99, 0.99,   1.00,     0.000, 0.0),
    "step-refused":               (0.91, 0.98,   0.50,     0.035, 2.3),
    "step-slow":                  (0.95, 0.96,   1.25,     0.000, 0.5),
    "recycle":                    (0.88, 0.95,   0.75,     0.012, 1.1),
    "deep-queue":                 (0.93, 0.94,   0.75,     0.000, 0.0),
    "noisy-neighbour":            (0.82, 0.91,   3.10,     0.000, 0.0),
    "address-403":                (0.80, 0.91,   2.40,     0.012, 0.0),
    "retry-after":                (0.87, 0.88,   2.34,     0.005, 0.0),
}  # fmt: skip


def test_every_scenario_of_the_design_is_there() -> None:
    """None is missing, none is new, and each has its floors."""
    assert [one.name for one in SCENARIOS] == DESIGN.split() == list(FLOORS)


@pytest.mark.parametrize("name", FLOORS)
def test_ours_keeps_to_its_floors(name: str) -> None:
    """With every seed, what is measured is within the table, and nothing is lost."""
    whole, settled, overshoot, turned_away, recovery_s = FLOORS[name]
    for seed in SEEDS:
        found = play(BY_NAME[name], seed).figures
        assert found.lost == 0
        assert found.whole >= whole, seed
        assert found.settled >= settled, seed
        assert found.overshoot <= overshoot + 1e-9, seed
        assert found.turned_away_share <= turned_away, seed
        assert found.recovery_s <= recovery_s, seed


# Exactly at the rate of address-403, rounding decides whether it is exceeded.
STEADY = [one for one in SCENARIOS if not one.changes and one.name != "address-403"]


@pytest.mark.parametrize("scenario", STEADY, ids=lambda one: one.name)
def test_ideal_is_what_the_right_limit_reaches(scenario: Scenario) -> None:
    """A sender that knows what is needed comes close to 100 % of the capacity, and not beyond."""
    knowing = Contender("knowing", lambda one: Fixed(one.need(0.0)), guarded=False)
    found = play(scenario, 0, knowing).figures
    assert 0.96 <= found.whole <= 1 + 1e-6
    assert 0.98 <= found.settled <= 1.01
    assert found.over == 0


def test_same_seed_gives_the_same() -> None:
    """A scenario can be played again."""
    assert play(BY_NAME["recycle"], 5) == play(BY_NAME["recycle"], 5)


@pytest.mark.parametrize("rival", RIVALS, ids=lambda one: one.name)
@pytest.mark.parametrize("name", ["fixed-concurrency-jitter", "defers-at-high-concurrency"])
def test_rivals_deliver_everything_within_their_ceiling(rival: Contender, name: str) -> None:
    """They are real senders; only a fixed limit above the ceiling goes beyond it, where the ceiling is none."""
    scenario = BY_NAME[name]
    found = play(scenario, 0, rival).figures
    assert found.lost == 0
    assert found.most <= (64 if rival.name == "Fixed(64)" and scenario.ceiling == 32 else scenario.ceiling)


def test_aimd_doubles_until_turned_away_and_then_goes_up_by_one() -> None:
    """From then on it takes 0.7 of its limit each time."""
    grown = Aimd(100.0, 10.0).after(_answered(0.1)).after(_answered(0.1))
    assert grown.value == 40
    cut = grown.after(Round(40.0, busy=1))
    assert cut.value == pytest.approx(28)
    assert cut.after(_answered(0.1)).value == pytest.approx(29)


def test_vegas_follows_the_queue() -> None:
    """It grows by 6 without a queue, stays with some, shrinks by one with more, and goes on with 3/4 when refused."""
    law = Vegas(100.0, 20.0).after(_answered(0.1))
    assert law.value == 26
    assert law.after(_answered(0.12)).value == 26  # 26 (1 - 1/1.2) is a queue of 5
    assert law.after(_answered(0.2)).value == 25  # a queue of 13
    assert law.after(Round(26.0, busy=1)).value == pytest.approx(19.5)


def test_gradient2_follows_the_latest_round_trip() -> None:
    """Up to 1.5 times the mean it grows by a fifth of its queue of 4; beyond, it shrinks with the excess."""
    law = Gradient2(100.0, 20.0).after(_answered(0.1))
    assert law.value == pytest.approx(20.8)
    assert law.after(_answered(0.14)).value == pytest.approx(21.6)
    assert law.after(_answered(1.0)).value < 20
    assert law.after(Round(20.8, busy=1)).value == pytest.approx(18.72)


def _answered(took_s: float) -> Round:
    return Round(20.0, answers=10, mean=math.log(took_s))


def test_page_shows_every_scenario_and_law() -> None:
    """docs/delivery.md has a section and a plot for each scenario, and a column for each law."""
    page = PAGE.read_text("utf-8")
    for scenario in SCENARIOS:
        assert f"\n### {scenario.name}\n" in page
        assert f"]({PAGE.stem}/{scenario.name}.svg)" in page
        plot = PAGE.with_suffix("") / f"{scenario.name}.svg"
        assert plot.stat().st_size < 60_000
    head = next(line for line in page.splitlines() if "| ours" in line and "Fixed" in line)
    for law in RIVALS:
        assert f"| {law.name} " in head


def test_page_explains_every_figure_that_misses_the_bar() -> None:
    """No miss stands there without its reason, and each rule of the law with what it is worth."""
    page = PAGE.read_text("utf-8")
    assert "not explained" not in page
    for without in ablation.CONTENDERS:
        assert f"\n| {without.name} " in page


def test_a_rule_is_taken_away_only_while_it_plays() -> None:
    """Whatever a scenario sets is as before when it is over."""
    before = play(BY_NAME["shallow-knee"], 0).figures
    without = next(one for one in ablation.CONTENDERS if "must pay" in one.name)
    assert play(BY_NAME["shallow-knee"], 0, without).figures.settled < before.settled
    assert play(BY_NAME["shallow-knee"], 0).figures == before
