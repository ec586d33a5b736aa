"""What a person would expect of a shop: who said no when, who withdrew, who was erased, and what may be sent then.

Plain dictionaries that know nothing of bytes, snapshots or folds. People are known by their place in the shop, never
by a number: whose a number is, is asked of the shop at the moment that it matters.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.machine import Request

CHANNELS = ("Sms", "Email", "Push", "EmailOnlineCheque")
SCOPES = {"sms": (0,), "email": (1,), "marketing": (0, 1, 2), "all": (0, 1, 2, 3)}
DAY_S = 86400.0

Consent = tuple[bool | None, ...]
Channel = tuple[int, int]  # a person, and which channel


class LawError(AssertionError):
    """A law is broken; its number goes before what happened."""

    def __init__(self, law: str, said: str) -> None:
        super().__init__(f"{law}: {said}")
        self.law = law


class Said(NamedTuple):
    """A statement that a command read: as of when, when it was read, and since when it is said (epoch seconds)."""

    as_of: float
    read: float
    since: float


class Withdrawal(NamedTuple):
    """What a person withdrew, when it was received, by which list, and when that was taken in (in elapsed seconds)."""

    person: int
    scope: str
    at: float
    digest: str
    taken: float
    reference: str


@dataclass
class Reading:
    """The export that a command works by, as the person who made it knows it.

    *grants* is whether anything of it may be allowed at all, *ungranted* is who is not; *approved* when a person said
    that exactly this is to be sent, *dated* when it says how old it is.
    """

    says: Mapping[int, Consent] = field(default_factory=dict)
    as_of: float = 0.0
    grants: bool = True
    ungranted: frozenset[int] = frozenset()
    approved: bool = False
    dated: bool = True


class Book:
    """Everything that is expected of one shop, kept up to date by what happens to it."""

    def __init__(self, now: Callable[[], float], max_age_s: float) -> None:
        self._now, self._max_age_s = now, max_age_s
        self.no: dict[Channel, Said] = {}
        self.yes: dict[Channel, Said] = {}
        self.withdrawals: list[Withdrawal] = []
        self.lifted: dict[Channel, float] = {}
        self.voided: list[Withdrawal] = []
        self.erased: set[int] = set()
        self.asked: set[int] = set()  # to be erased, and perhaps not yet
        self.named: set[int] = set()  # by a list, since they were erased
        self.closed: dict[int, float] = {}  # by hand: when (elapsed)
        self.denied: dict[Channel, float] = {}  # acknowledged by the platform, last: when (elapsed)
        self.allowed: dict[Channel, float] = {}  # likewise
        self.asked_for: dict[Channel, float] = {}  # a request to allow it may have arrived, last: when (elapsed)
        self.refrained: dict[Channel, float] = {}  # a request to deny it may have arrived, last: when (elapsed)
        self.reading = Reading()

    # What happens

    def read(self, reading: Reading, mentioned: Iterable[Channel] | None = None) -> None:
        """Note that a command read an export: all of it, or what of it was surely read."""
        now = self._now()
        for person, flags in reading.says.items():
            for k, flag in enumerate(flags):
                key = person, k
                if flag is None or (mentioned is not None and key not in mentioned):
                    continue
                if flag is False:
                    if key not in self.no or self.no[key].as_of <= reading.as_of:
                        since = min(self.no[key].since, now) if self.says_no(key) else now
                        self.no[key] = Said(reading.as_of, now, since)
                elif key not in self.yes or self.yes[key].as_of < reading.as_of:
                    self.yes[key] = Said(reading.as_of, now, now)

    def acknowledged(self, person: int, request: Request, elapsed: float) -> None:
        """Note what the platform acknowledged."""
        for k, flag in enumerate(request.flags):
            if flag is not None:
                (self.allowed if flag else self.denied)[person, k] = elapsed

    def set_right(self) -> None:
        """Note that the clock was ahead: what was said then was said at the latest now."""
        now = self._now()
        for said in (self.no, self.yes):
            for key, one in said.items():
                said[key] = Said(min(one.as_of, now), min(one.read, now), min(one.since, now))

    def join(self, gone: int, stays: int, elapsed: float) -> None:
        """Let two people be one: each restriction of both holds, and nothing is allowed that not both allowed.

        Nobody knows what the platform made of them, so what either denied may be allowed.
        """
        self.withdrawals = [one for one in self.withdrawals if any(self.stands(one, k) for k in SCOPES[one.scope])]
        self.withdrawals = [one._replace(person=stays) if one.person == gone else one for one in self.withdrawals]
        self.voided = [one._replace(person=stays) if one.person == gone else one for one in self.voided]
        for k in range(4):
            self.lifted[stays, k] = max(self.lifted.pop((gone, k), 0.0), self.lifted.get((stays, k), 0.0))
            if (no := self.no.pop((gone, k), None)) is not None:
                mine = self.no.get((stays, k))
                self.no[stays, k] = no if mine is None or mine.as_of < no.as_of else mine
            self.yes.pop((gone, k), None)
            for held in (self.denied, self.allowed, self.asked_for, self.refrained):
                held.pop((gone, k), None)
                held.pop((stays, k), None)
            self.asked_for[stays, k] = elapsed
        for people in (self.erased, self.asked):
            if gone in people:
                people.discard(gone)
                people.add(stays)

    # What is so

    def stands(self, one: Withdrawal, channel: int) -> bool:
        """Return whether a withdrawal still covers a channel."""
        return channel in SCOPES[one.scope] and one.at >= self.lifted.get((one.person, channel), 0.0)

    def withdrawn(self, person: int, channel: int) -> bool:
        """Return whether a person has withdrawn a channel."""
        return any(one.person == person and self.stands(one, channel) for one in self.withdrawals)

    def says_no(self, key: Channel) -> bool:
        """Return whether the newest statement of a channel that was read is a no."""
        return key in self.no and (key not in self.yes or self.no[key].as_of >= self.yes[key].as_of)

    def rightful(self, request: Request, owners: Iterable[int], name: Callable[[int], str]) -> None:
        """Hold a request to what may be allowed at this moment to everybody whom its number means."""
        if True not in request.flags:
            return
        whose = list(owners)
        reading = self.reading
        if not whose:
            raise LawError("L9", f"an allowed to {request.client}, who is nobody today")
        for k, flag in enumerate(request.flags):
            if not flag:
                continue
            stated = False
            for person in whose:
                who = f"{CHANNELS[k]} of {name(person)}"
                if self.withdrawn(person, k):
                    by = next(one for one in self.withdrawals if one.person == person and self.stands(one, k))
                    raise LawError("L1", f"{who} is allowed, and was withdrawn ({by.reference})")
                if person in self.erased | self.asked:
                    raise LawError("L8", f"{who} is allowed, and is erased")
                no = self.no.get((person, k))
                if no is not None and not reading.approved and no.as_of >= reading.as_of:
                    raise LawError(
                        "L1", f"{who} is allowed as of {reading.as_of:.0f}, and said no as of {no.as_of:.0f}"
                    )
                says = reading.says.get(person, (None,) * 4)[k]
                stated |= bool(says) and person not in reading.ungranted
            if not reading.approved and not (stated and reading.grants):
                raise LawError("L1", f"{CHANNELS[k]} of {name(whose[0])} is allowed, and no fresh export says so")
            if reading.dated and not reading.approved and request.at - reading.as_of > self._max_age_s + DAY_S:
                raise LawError("L1", f"{CHANNELS[k]} of {name(whose[0])} is allowed by an export that is too old")
