"""Who withdrew, as keyed codes beside the keys, so that a state that lacks some of them is known by whom it lacks.

One file per target: a line of text with the version, the *edition* (how often it was written), a code that tells
whether the key is its own, and the digest of the rest; then one entry of 25 bytes per person, ascending by code: half
a code of `keyed`, which is enough for millions, when each channel was last withdrawn, and which channels are *unnamed*:
a person has said that nobody can tell whose they are. People leave the file only when they are erased.
"""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import NOBODY, SHIFTS, Bytes, Ids, low_bits
from sync_job.consent.id_map import IdMap
from sync_job.errors import StateDamagedError
from sync_job.ledger import anchor, files, keyed
from sync_job.ledger.anchor import Anchor
from sync_job.ledger.claims import Claims, Seconds

VERSION = 1
_WORD = "consent-sync-withdrawn"
_CHUNK = 1 << 20
_ENTRY = np.dtype([("code", "<u8"), ("withdrawn", "<u4", (len(SHIFTS),)), ("unnamed", "u1")])


def _none() -> npt.NDArray[np.void]:
    return np.zeros(0, _ENTRY)


class Recognised(NamedTuple):
    """Withdrawals whose people were found: client, channels (low bits), and when they were withdrawn."""

    client: Ids
    channels: Bytes
    withdrawn_at: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Withdrawn:
    """The people of one target who ever withdrew; each change makes a new one, which counts when it is written."""

    path: Path
    key: bytes = b""
    edition: int = 0
    digest: str = ""  # of edition and entries; "" for none
    entries: npt.NDArray[np.void] = field(default_factory=_none)

    @classmethod
    def open(cls, keys: Path, target: str, found: Anchor | None) -> Self:
        """Return what the keys have of a target whose anchor is *found*; looking makes nothing.

        Raises:
            StateError: when the key is gone or another, or others may read the file.
            StateDamagedError: when the file is not what was written, or older than its anchor says.
        """
        path = path_of(keys, target)
        there = anchor.is_there(keys) and anchor.is_there(path)
        if not there:
            if found and found.edition:
                raise _damaged(path, "it is missing")
            return cls(path)
        files.check_private(keys)
        files.check_private(path)
        if not (key := keyed.read_key(keys)):
            raise keyed.key_gone(keys, path)
        edition, digest, entries = _read(path, key)
        if found and (edition < found.edition or (edition == found.edition and digest != found.digest)):
            raise _damaged(path, "it is older than the anchor beside it")
        return cls(path, key, edition, digest, entries)

    def __len__(self) -> int:
        return len(self.entries)

    def unnamed(self) -> int:
        """Return how many people have channels of which nobody could tell whose they are."""
        return int(np.count_nonzero(self.entries["unnamed"]))

    # Held against a ledger

    def behind(self, claims: Claims) -> Bytes:
        """Return, for each entry, the channels that were withdrawn later than *claims* know, and not lifted since."""
        place, which = self._entries_of(claims.client)
        withdrawn = np.zeros((len(self), len(SHIFTS)), np.uint32)
        granted = np.zeros_like(withdrawn)
        withdrawn[place], granted[place] = claims.withdrawn[which], claims.granted[which]
        newest = self.entries["withdrawn"]
        return low_bits((newest > withdrawn) & (newest >= granted))

    def missing(self, claims: Claims, *, anew: bool = False) -> Bytes:
        """Return, for each entry, the channels that are not denied by what *claims* know, though they were withdrawn.

        Those that are unnamed are not counted, unless a state begins *anew*.
        """
        place, which = self._entries_of(claims.client)
        in_force = np.zeros(len(self), np.uint8)
        in_force[place] = claims.in_force[which]
        known = in_force if anew else in_force | self.entries["unnamed"]
        return np.asarray(self.behind(claims) & ~known, np.uint8)

    def recognise(self, ids: Ids, channels: Bytes) -> Recognised:
        """Return the withdrawals of *ids*, ascending, in those *channels* that each entry is looked for in."""
        wanted = np.flatnonzero(channels)
        place, which = self._entries_of(ids, wanted)
        clients, bits, times = [NOBODY], [np.zeros(0, np.uint8)], [np.zeros(0, np.uint32)]
        for column, shift in enumerate(SHIFTS):
            here = (channels[place] >> shift & 1).astype(np.bool_)
            clients.append(ids[which[here]])
            bits.append(np.full(int(here.sum()), 1 << shift, np.uint8))
            times.append(self.entries["withdrawn"][place[here], column])
        client, at = np.concatenate(clients), np.concatenate(times)
        order = np.lexsort((at, client))
        client, at = client[order], at[order]
        # Channels that were withdrawn at once are one withdrawal.
        first = np.ones(len(client), np.bool_)
        first[1:] = (client[1:] != client[:-1]) | (at[1:] != at[:-1])
        starts = np.flatnonzero(first)
        merged = np.bitwise_or.reduceat(np.concatenate(bits)[order], starts) if len(starts) else np.zeros(0, np.uint8)
        return Recognised(client[starts], merged, at[starts].astype(np.float64))

    def _entries_of(
        self, ids: Ids, wanted: npt.NDArray[np.intp] | None = None
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.intp]]:
        """Return the places of entries, and for each the place in *ids* of the client whose it is.

        Only those that are *wanted* are looked for, by their places, ascending.
        """
        among = self.entries["code"] if wanted is None else self.entries["code"][wanted]
        places, found = [np.zeros(0, np.intp)], [np.zeros(0, np.intp)]
        for start in range(0, len(ids) if len(among) else 0, _CHUNK):
            codes = _codes(self.key, ids[start : start + _CHUNK])
            order = np.argsort(codes)  # What is looked for in order is near what was looked for before.
            place = np.minimum(np.searchsorted(among, codes[order]), len(among) - 1)
            here = np.flatnonzero(among[place] == codes[order])
            places.append(place[here] if wanted is None else wanted[place[here]])
            found.append(order[here] + start)
        return np.concatenate(places), np.concatenate(found)

    # Changed

    def with_(self, keys: Path, ids: Ids, withdrawn: Seconds) -> "Withdrawn":
        """Return it with these people; what a ledger knows is unnamed no more.

        Raises:
            StateError: when the key is gone and any list was made with it.
        """
        if not len(ids):
            return self
        key = self.key or keyed.read_key(keys) or keyed.make_key(keys)
        codes = _codes(key, ids)
        order = np.argsort(codes)
        codes, withdrawn = codes[order], withdrawn[order]
        entries, place = self.entries.copy(), np.searchsorted(self.entries["code"], codes)
        known = place < len(self)
        known[known] = entries["code"][place[known]] == codes[known]
        here, newest = place[known], withdrawn[known]
        entries["unnamed"][here] &= ~low_bits((newest >= entries["withdrawn"][here]) & (newest != 0))
        entries["withdrawn"][here] = np.maximum(entries["withdrawn"][here], newest)
        added = np.zeros(int((~known).sum()), _ENTRY)
        added["code"], added["withdrawn"] = codes[~known], withdrawn[~known]
        return self._changed(np.insert(entries, place[~known], added), key)

    def without(self, ids: Ids) -> "Withdrawn":
        """Return it without these people, who are erased."""
        place, _ = self._entries_of(ids)
        return self._changed(np.delete(self.entries, place), self.key)

    def unnaming(self, channels: Bytes) -> "Withdrawn":
        """Return it with those *channels* of each entry noted as unnamed."""
        entries = self.entries.copy()
        entries["unnamed"] |= channels
        return self._changed(entries, self.key)

    def carried(self, keys: Path, map_: IdMap, there: "Withdrawn") -> "Withdrawn":
        """Return what *there*, of the same or another target, is when the clients of *map_* have their new ids there.

        Who is not listed is not in it; what *there* had of itself stays, if it is another target's.
        """
        base = replace(there, entries=_none()) if there.path == self.path else there
        place, which = self._entries_of(map_.old)
        ids, back = np.unique(map_.new[which], return_inverse=True)
        withdrawn, unnamed = np.zeros((len(ids), len(SHIFTS)), np.uint32), np.zeros(len(ids), np.uint8)
        np.maximum.at(withdrawn, back, self.entries["withdrawn"][place])
        np.bitwise_or.at(unnamed, back, self.entries["unnamed"][place])
        found = base.with_(keys, ids, withdrawn)
        place, which = found._entries_of(ids)
        entries, edition = found.entries.copy(), max(self.edition, there.edition) + 1
        entries["unnamed"][place] |= unnamed[which]
        digest = _digest(edition, entries.tobytes())
        return replace(found, key=found.key or self.key, edition=edition, digest=digest, entries=entries)

    def later_than(self, latest: float) -> int:
        """Return how many people withdrew after *latest* (epoch seconds), by the times that are kept."""
        return int(np.count_nonzero((self.entries["withdrawn"] > latest).any(axis=1)))

    def bring_back(self, latest: float, to: float) -> "Withdrawn":
        """Return it with the time *to* in the place of those after *latest*."""
        entries = self.entries.copy()
        entries["withdrawn"][entries["withdrawn"] > latest] = int(to)
        return self._changed(entries, self.key)

    def _changed(self, entries: npt.NDArray[np.void], key: bytes) -> "Withdrawn":
        if entries.tobytes() == self.entries.tobytes():
            return self
        edition = self.edition + 1
        return replace(self, key=key, edition=edition, digest=_digest(edition, entries.tobytes()), entries=entries)

    def write(self, path: Path | None = None) -> None:
        """Make it durable, in its place or in *path*."""
        head = f"{_WORD} {VERSION} {self.edition} {keyed.check(self.key)} {self.digest}\n".encode("ascii")
        body = self.entries.tobytes()
        files.replace(path or self.path, lambda place: place.write_bytes(head + body))


def path_of(keys: Path, target: str) -> Path:
    """Return where a target's codes lie."""
    return keys / f"{anchor.tag(target)}.{keyed.WITHDRAWN}"


def _codes(key: bytes, ids: Ids) -> npt.NDArray[np.uint64]:
    return keyed.of(key, ids, keyed.WITHDRAWN).view("<u8")[::2]


def _digest(edition: int, body: bytes) -> str:
    return hashlib.sha256(b"%d\n" % edition + body).hexdigest()


def _read(path: Path, key: bytes) -> tuple[int, str, npt.NDArray[np.void]]:
    """Return the edition, the digest of the entries, and the entries."""
    with files.storing(path):
        head, _, body = path.read_bytes().partition(b"\n")
    try:
        word, version, edition, check, digest = head.decode("ascii").split(" ")
        if word != _WORD:
            raise ValueError("no list of who withdrew")
        if version != str(VERSION):
            raise ValueError(f"version {version} of the list; this program knows {VERSION}")
        number = int(edition)
        if digest != _digest(number, body) or len(body) % _ENTRY.itemsize:
            raise ValueError("it does not match its digest")
    except ValueError as exc:
        raise _damaged(path, str(exc)) from exc
    if check != keyed.check(key):
        raise keyed.key_wrong(path.parent, path)
    return number, digest, np.frombuffer(body, _ENTRY)


def _damaged(path: Path, why: str) -> StateDamagedError:
    place = path.absolute()
    return StateDamagedError(
        f"{place}: damaged ({why}). It says who withdrew. Nothing was sent. Restore it from the backup of the keys, "
        f"with the anchor that is beside it there ({path.stem}.anchor.json); an older pair will do. If there is none, "
        "move both away: then the state is taken for a restored backup, and grants nothing until `consent-sync state "
        "restored`."
    )
