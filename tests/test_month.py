"""A month of ordinary nights trips no guard: shops of ten thousand and of a million, with the churn that shops have."""

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pytest

from sync_job.consent import freshness, guards
from sync_job.consent.channels import ALLOWED, BLANK, DENIED, SHIFTS, Bytes, Ids, allowed
from sync_job.consent.diff import Terms, diff
from sync_job.consent.fold import Endings, Outcome, fold
from sync_job.consent.guards import Judgement, Past, Thresholds
from sync_job.consent.known import Holdings, Known, no_lingering
from sync_job.consent.rules import FREE
from sync_job.consent.tables import tabulate

NIGHTS = 30
SIGN_UPS, CONSENTING, PEAK = 0.001, 0.65, 8  # a night, of them, and on three nights of sales
OPT_OUTS = 0.0003
RETURNS = 0.00003  # who come back by themselves, a tenth of those who leave
STANDING_REJECTS, STANDING_REFUSED = 0.0005, 0.0005
LIMITS = Thresholds()


@dataclass
class World:
    """A shop and its platform, night by night."""

    ids: Ids
    says: Bytes
    random: np.random.Generator
    holdings: Holdings = field(init=False)
    grants: list[int] = field(default_factory=list)
    lost: int | None = None
    clients: int | None = None

    def __post_init__(self) -> None:
        state = np.where(self.says == 0xFF, 0, self.says).astype(np.uint8)
        known = state != 0
        self.holdings = Holdings(self.ids[known], state[known], np.zeros(np.count_nonzero(known), np.uint8))

    def churn(self, peak: int) -> None:
        """Let a day pass: people sign up, opt out, and a few come back; 3 % of the cells of newcomers are blank."""
        many = len(self.ids)
        fresh = self.random.poisson(SIGN_UPS * many * peak)
        consenting = self.random.random(fresh) < CONSENTING
        new = np.zeros(fresh, np.uint8)
        for shift in SHIFTS:
            value = np.where(consenting, ALLOWED, DENIED)
            new |= (np.where(self.random.random(fresh) < 0.03, BLANK, value).astype(np.uint8)) << shift
        leaving = self.random.random(many) < OPT_OUTS
        coming = (self.random.random(many) < RETURNS) & (self.says == 0x55)
        self.says = np.where(leaving, 0x55, np.where(coming, 0xAA, self.says)).astype(np.uint8)
        self.ids = np.concatenate([self.ids, self.ids[-1] + 1 + np.arange(fresh, dtype=np.int32)]).astype(np.int32)
        self.says = np.concatenate([self.says, new])

    def night(
        self, *, says: Bytes | None = None, ids: Ids | None = None, full: bool = True
    ) -> tuple[Judgement, list[freshness.Finding]]:
        """Judge tonight's export, and deliver it if nothing is held."""
        ids = self.ids if ids is None else ids
        says = self.says if says is None else says
        rejected = ids % int(1 / STANDING_REJECTS) == 0
        statements = tabulate(ids, ids, np.where(rejected, 0xFF, says).astype(np.uint8))
        terms = Terms(ungranted=ids[rejected])
        found = diff(statements, Known(self.holdings), terms, 0.0)
        rejects = int(np.count_nonzero(rejected))
        doubts = freshness.judge(
            freshness.Seen(None, len(ids), len(ids), rejects),
            freshness.Before(None, False, self.clients),
            dated=False,
            max_age_s=1.0,
            now=0.0,
            full=full,
            accepted=False,
            limits=LIMITS,
        )
        usual = float(np.median(self.grants[-14:])) if self.grants else 0.0
        judged = guards.judge(found.tally, Past(usual, self.lost, not self.grants), LIMITS, full=full)
        if not judged.trips and not doubts:
            refused = found.rows.client % int(1 / STANDING_REFUSED) == 1
            self._deliver(found.rows, refused)
            self.grants.append(found.tally.new_grants)
            self.lost, self.clients = found.tally.lost, len(ids)
        return judged, doubts

    def _deliver(self, rows: object, refused: npt.NDArray[np.bool_]) -> None:
        outcome = np.where(refused, Outcome.REFUSED, Outcome.DELIVERED).astype(np.uint8)
        none = np.zeros(len(refused), np.uint8)
        endings = Endings(outcome, none, none, np.zeros(len(refused)))
        after = fold(self.holdings, no_lingering(), rows, endings, started=0.0, now=1.0, linger_s=1.0)  # type: ignore[arg-type]
        self.holdings = after.holdings


def world(many: int, seed: int = 1) -> World:
    """Return a shop of so many, two thirds of whom consent; each channel by itself in one of ten."""
    random = np.random.default_rng(seed)
    says = np.where(random.random(many) < 2 / 3, 0xAA, 0x55).astype(np.uint8)
    mixed = random.random(many) < 0.1
    says[mixed] = random.choice(np.array([0xA9, 0x96, 0x6A, 0x59], np.uint8), np.count_nonzero(mixed))
    return World(np.arange(1000, 1000 + many, dtype=np.int32), says, random)


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("many", [10_000, 1_000_000])
def test_a_month_of_ordinary_nights_trips_no_guard(many: int, full: bool) -> None:
    """Sign-ups, opt-outs, sales with eight times the sign-ups, rows that never read and clients never known."""
    shop = world(many)
    for night in range(NIGHTS):
        before = shop.ids, shop.says
        shop.churn(PEAK if night in (6, 13, 27) else 1)
        ids, says = shop.ids, shop.says
        if not full:  # the changed clients alone
            changed = np.ones(len(ids), np.bool_)
            changed[: len(before[0])] = says[: len(before[0])] != before[1]
            ids, says = ids[changed], says[changed]
        judged, doubts = shop.night(ids=ids, says=says, full=full)
        assert (judged.trips, doubts) == ((), []), night
        assert judged.hold == FREE


@pytest.mark.parametrize("many", [10_000, 1_000_000])
@pytest.mark.parametrize(
    ("accident", "trips"),
    [
        ("old copy", {"re-grants"}),
        ("inverted", {"re-grants", "revocations", "changed clients"}),
        ("truncated", {"shrunken"}),
        ("renumbered", {"changed clients"}),
        ("silent", {"lost consents"}),
        ("everybody", {"re-grants"}),
        ("nobody", {"revocations"}),
        ("another shop's", {"unknown ids"}),
    ],
)
def test_each_accident_trips_its_guard(many: int, accident: str, trips: set[str]) -> None:
    """After two ordinary weeks, in shops of either size."""
    shop = world(many, seed=2)
    kept = shop.ids, shop.says
    for _ in range(14):
        shop.churn(1)
        judged, doubts = shop.night()
        assert (judged.trips, doubts) == ((), [])
    ids, says = shop.ids, shop.says.copy()
    if accident == "old copy":  # the fortnight's opt-outs are gone from it
        says[: len(kept[0])] = kept[1]
    elif accident == "inverted":
        says = np.asarray(says ^ 0b11, np.uint8)
    elif accident == "truncated":
        ids, says = ids[: len(ids) * 9 // 10], says[: len(ids) * 9 // 10]
    elif accident == "renumbered":
        ids = ids + 1
    elif accident == "silent":
        says[::50] |= 0b11
    elif accident == "everybody":
        says[:] = 0xAA
    elif accident == "nobody":
        says[:] = 0x55
    else:
        ids = (ids.astype(np.int64) + 50_000_000).astype(np.int32)
    judged, doubts = shop.night(ids=ids.astype(np.int32), says=says)
    found = {str(trip.guard) for trip in judged.trips} | {str(doubt.doubt) for doubt in doubts}
    assert trips <= found
    assert int(np.count_nonzero(allowed(shop.holdings.state))) > 0
