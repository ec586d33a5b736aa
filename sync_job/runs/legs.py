"""The legs of one run, one after the other: what is owed first, and a new one whenever a list came in."""

import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from sync_job.config import Settings
from sync_job.consent.channels import Ids
from sync_job.consent.known import nobody
from sync_job.consent.rows import (
    Lane,
    Rows,
    denials_alone,
    joined,
    last_of_each,
    obligations,
    still_so,
    without_withdrawn,
)
from sync_job.consent.tables import tabulate
from sync_job.delivery import hours
from sync_job.delivery.sending import HOPELESS
from sync_job.errors import Exit
from sync_job.ledger.state import State
from sync_job.report import counts
from sync_job.runs import decide, intake, leg
from sync_job.runs.decide import Wish
from sync_job.runs.leg import Manner
from sync_job.runs.report import Findings
from sync_job.runs.watch import Watch


def owed_now(state: State, now: float, *, retry: bool = False) -> Rows:
    """Return the rows of a leg without an export: what is to be sent at *now* to people to whom a denial is owed."""
    ledger = state.ledger
    if not len(ledger.obligations.owed(now).client):
        return joined([])  # on most nights: the snapshot need not be read for that
    known, _ = decide.known(ledger, state.holdings(), ledger.lingering(), now, retry=retry)
    return obligations(known.holdings, known.owed, known.lingering, now)


def refused_since(state: State, findings: Findings) -> Ids:
    """Return whose row was refused since the run began: it is not sent again by the same run."""
    waiting = state.ledger.obligations.waiting()
    return waiting.client[waiting.since >= findings.started]


# Takes each new plan of an export, and when it was made.
Decided = Callable[[decide.Planned, float], None]


class Legs:
    """Sends the legs of one run, and notes how each went."""

    def __init__(
        self,
        state: State,
        settings: Settings,
        findings: Findings,
        watch: Watch,
        wish: Wish,
        *,
        hands_over: bool = False,
    ) -> None:
        self.state, self.settings, self.findings, self._watch = state, settings, findings, watch
        self._wish = wish
        self._left = wish.limit
        self._number = 0
        self._given_up = np.zeros(0, np.int32)  # to whom a denial is owed, of whom there was not one good answer
        self._closed = False  # its hours are over: what is owed goes all the same
        self._hands_over = hands_over
        self._came = False  # a list, since the leg began
        self._overtaken = False  # the plan, by what was sent since
        self._known_owed = nobody()
        self._stated: float | None = None  # when the export stated what is sent of it
        self._planned = joined([])  # the last row of each client, of all legs
        self._last_untried = np.zeros(0, np.int32)
        self._others = False  # the last leg stopped after a few rows without a good answer
        self._unknown = ""  # why no grant is sent: the platform knew no canary, and no row since
        self._canaries = settings.delivery.canary
        self._when_planned: Callable[[], None] | None = None

    def send_at_most(self, rows: int) -> None:
        """Send no more than so many rows from now on."""
        self._left = rows if self._left is None else min(self._left, rows)

    def owed(self) -> bool:
        """Deliver what is owed, whatever the hour, and what comes in meanwhile; return whether the run has to stop."""
        while True:
            self._came = False
            rows = owed_now(self.state, time.time(), retry=self._wish.retry and not self._number)
            stopped = self._send(rows, Manner())
            if untried := self._untried():
                # Rows without a good answer may be to blame, and not the endpoint: those at the other end of the line
                # show it, and would else wait for the first ones for ever.
                left = owed_now(self.state, time.time())
                left = left.at(np.flatnonzero(np.isin(left.client, untried))[::-1])
                stopped = self._send(left, Manner()) if len(left) else stopped
            if stopped - {Exit.ENDPOINT}:
                return True
            if stopped and len(rows) >= HOPELESS:
                # It may be the rows all the same: others show, and would else wait for these for ever.
                self._given_up = np.unique(rows.client)
            self._come_in()
            if not self._came:
                return False

    def heed(self) -> bool:
        """Deliver what is owed by lists that came in since the last leg; return whether the run has to stop."""
        self._overtaken |= intake.absorb(self.state, self.settings)
        return bool(len(self._newly_owed())) and self.owed()

    def export(self, rows: Rows, case: decide.Case, decided: Decided, planned: Callable[[], None]) -> None:
        """Deliver the plan of an export as far as its hours let it, and decide it anew for each list that comes in.

        *decided* makes durable what each new plan decides besides its rows; *planned* is called once the rows are
        durable. If the platform knows none of the canaries, the denials go alone; the grants follow once it knows one
        of those.
        """
        self._stated = case.stated
        self._number = max(self._number, 1)
        self._when_planned = planned
        try:
            self._export(rows, case, decided)
        finally:
            self._say_unknown()

    def _export(self, rows: Rows, case: decide.Case, decided: Decided) -> None:
        while True:
            self._overtaken = self._came = False
            if self.heed():
                return
            rows = self._not_overtaken(rows)
            stopped, learned = self._heeding_unknown(rows, case.fresh_until)
            self._closed |= stopped == {Exit.ATTENTION}
            if stopped == {Exit.HELD}:  # it became too old meanwhile: what it denies is sent all the same
                case.terms = replace(case.terms, may_grant=False)
            elif stopped - {Exit.ATTENTION}:
                return
            self._come_in()
            freed = not stopped and self._is_freed(case.deferred)
            if not (self._came or self._overtaken or learned or freed or stopped == {Exit.HELD}):
                return
            # A leg of its own, so that who waits for an answer gets it now, and not with the rest of the export.
            if self._came and self.owed():
                return
            now = time.time()
            ledger = self.state.ledger
            case.terms = replace(case.terms, planned=np.sort(self._planned.client))
            found = decide.next_plan(
                case, ledger, self.state.holdings(), ledger.lingering(), self.findings.started, now
            )
            decided(found, now)
            rows = found.diff.rows

    def _is_freed(self, deferred: Ids) -> bool:
        """Return whether to any of these clients no denial is owed any more: then they may be granted something."""
        return not np.isin(deferred, self.state.ledger.obligations.owed(time.time()).client).all()

    def planned(self, rows: Rows, stated: float, fresh_until: float, planned: Callable[[], None]) -> None:
        """Deliver a plan that was made before, as far as its hours let it, and what comes in meanwhile.

        *stated* is when its export stated what it sends; after *fresh_until* it grants nothing, in epoch seconds.
        *planned* is called once its rows are durable here.
        """
        self._when_planned = planned
        self._stated = stated
        self._number = max(self._number, 1)
        self._overtaken = True  # what was owed has gone out since the plan was made
        try:
            self._deliver_planned(rows, fresh_until)
        finally:
            self._say_unknown()

    def _deliver_planned(self, rows: Rows, fresh_until: float) -> None:
        while True:
            self._came = False
            if self.heed():
                return
            rows = self._not_overtaken(rows)
            rows = rows.at(~np.isin(rows.client, refused_since(self.state, self.findings)))
            stopped, learned = self._heeding_unknown(rows, fresh_until)
            self._closed |= stopped == {Exit.ATTENTION}
            self._come_in()
            if stopped - {Exit.ATTENTION} or not (self._came or learned) or (self._came and self.owed()):
                return

    def _untried(self) -> list[int]:
        """Return the clients that the last leg did not get to, if it stopped after a few rows without a good answer."""
        return self._last_untried.tolist() if self._others else []

    def _heeding_unknown(self, rows: Rows, fresh_until: float) -> tuple[set[Exit], bool]:
        """Deliver a leg of an export, without grants while the platform knew no canary; return why it ended early.

        Return too whether it has shown that ids are unknown, or that they are not: then the rest has to be decided.
        """
        before = self._unknown
        if before:
            rows = denials_alone(rows, np.unique(rows.client))
        sent = len(self.findings.deliveries)
        planned = None if len(self._given_up) else self._when_planned
        if planned and not len(rows):
            planned()
        stopped = self._send(rows, replace(self._manner(rows), fresh_until=fresh_until), planned)
        if before and any(one.delivered for one in self.findings.deliveries[sent:]):
            self._unknown = ""
        return stopped, self._unknown != before

    def _say_unknown(self) -> None:
        if self._unknown:
            self.findings.add(Exit.CONFIG, self._unknown)

    def _come_in(self) -> Rows:
        """Take in the lists that lie in the inbox, and return the rows that are owed by them."""
        if not intake.absorb(self.state, self.settings):
            return joined([])
        self._came = True
        return self._newly_owed()

    def _newly_owed(self) -> Rows:
        """Return the rows to be sent now of those who are owed a denial that was not owed when this was last asked."""
        new = self._note_owed()
        if not len(new):
            return joined([])
        rows = owed_now(self.state, time.time())
        return rows.at(np.isin(rows.client, new))

    def _note_owed(self) -> Ids:
        """Note what is owed now, and return the clients that are owed more than was noted before."""
        owed = self.state.ledger.obligations.owed(time.time())
        new: Ids = owed.client[(owed.channels & ~self._known_owed.of(owed.client)) != 0]
        self._known_owed = tabulate(owed.client, owed.client, owed.channels)
        return new

    def _not_overtaken(self, rows: Rows) -> Rows:
        """Return *rows* less what must not be sent any more, since a list was sent after they were planned."""
        if self._overtaken:
            # A row that does not know of what was sent since would undo it.
            rows = still_so(without_withdrawn(rows, self.state.ledger.withdrawals.in_force()), self.state.holdings())
            rows = denials_alone(rows, self.state.ledger.obligations.owed(time.time()).client)
        return rows.at(~np.isin(rows.client, self._given_up))

    def _manner(self, rows: Rows) -> Manner:
        """Return how the plan of an export is sent now; what is owed in it goes at any hour."""
        delivery, zone = self.settings.delivery, self.settings.run.zone
        until = hours.closes_at(delivery.window, self._wish.until, self.findings.started, zone)
        if until is None:  # not open when the run began; it may be now
            until = hours.closes_at(delivery.window, self._wish.until, time.time(), zone)
        if until is not None and not self._closed:
            return Manner(until=until, canaries=self._canaries)
        owed = int(np.count_nonzero(rows.lane == Lane.OBLIGATION))
        if len(rows) > owed and not self._closed:
            self.findings.add(
                Exit.ATTENTION, f"outside [delivery] window = {delivery.window!r}: the export was not sent"
            )
        self._closed = True
        return Manner(limit=owed)

    def _send(self, rows: Rows, manner: Manner, planned: Callable[[], None] | None = None) -> set[Exit]:
        """Deliver a leg, and note how it went; return the reasons for which it ended early."""
        # What is owed comes first in a plan, and is never held back.
        owed = int(np.count_nonzero(rows.lane == Lane.OBLIGATION))
        if self._left is not None:
            most = owed + self._left
            manner = replace(manner, limit=most if manner.limit is None else min(most, manner.limit))
        good = any(one.good for one in self.findings.deliveries)
        manner = replace(manner, hands_over=self._hands_over, good=good)
        findings, number = self.findings, self._number
        if len(rows):
            self._planned = last_of_each(self._planned, rows)
            findings.changes = counts.changes(self._planned)
        about = findings.kept() | {"stated": self._stated}
        self._note_owed()
        stopped, deliveries = leg.deliver(
            self.state,
            self.settings,
            findings.run,
            number,
            rows,
            about,
            self._watch,
            manner,
            self._come_in_beside,
            planned,
        )
        self._note_owed()
        findings.deliveries += deliveries
        self._number += max(1, len(deliveries))
        if self._left is not None and deliveries:
            self._left -= min(self._left, max(0, deliveries[0].settled - owed))
        self._last_untried = deliveries[0].untried if deliveries else np.zeros(0, np.int32)
        self._others = stopped is not None and stopped.others
        if stopped and stopped.unknown:
            self._unknown, self._canaries = stopped.why, 0
            return set()
        if stopped and stopped.hopeless:
            findings.hopeless.append(stopped.why)
        elif stopped:
            findings.add(stopped.exit_code, stopped.why)
        return {stopped.exit_code} if stopped else set()

    def _come_in_beside(self) -> Rows:
        """Take in the lists that lie in the inbox, and return the rows that are sent beside a leg."""
        rows = self._come_in()
        if len(rows):
            self._planned = last_of_each(self._planned, rows)
            self.findings.changes = counts.changes(self._planned)
        return rows
