"""What stays of forgotten clients: a keyed code each, outside the state, so that no export brings them back.

The codes and their key are `keyed`'s. Each target has a list of its own: a first line with the version, a code that
tells whether the key is the list's own, and the digest of the rest; then a line for each client, its code and when it
was forgotten. A list that its key does not fit would recognise nobody, so it is refused and never begun anew.
"""

import hashlib
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Ids, Mask
from sync_job.consent.id_map import IdMap
from sync_job.errors import StateDamagedError
from sync_job.ledger import anchor, files, keyed

VERSION = 1
_WORD = "consent-sync-tombstones"
_CHUNK = 1 << 20
_SIEVE_BITS = 22  # 4 MiB, which a processor keeps at hand; of 100,000 codes it lets one in forty others through


class Tombstones:
    """The forgotten clients of one target."""

    def __init__(self, keys: Path, path: Path, key: bytes, codes: dict[bytes, float]) -> None:
        self._keys, self._path, self._key = keys, path, key
        self._take(codes)

    @classmethod
    def open(cls, keys: Path, target: str) -> Self:
        """Return the tombstones of a target; looking makes no key.

        Raises:
            StateError: when there are some and the key is gone or another, or others may read it.
            StateDamagedError: when key or list are not what was written.
        """
        path = path_of(keys, target)
        if not anchor.is_there(keys):
            return cls(keys, path, b"", {})
        files.check_private(keys)
        key = keyed.read_key(keys)
        if not anchor.is_there(path):
            return cls(keys, path, key, {})
        if not key:
            raise keyed.key_gone(keys, path)
        return cls(keys, path, key, _read_list(path, key))

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, ids: Ids, at: float | npt.NDArray[np.float64]) -> None:
        """Let a tombstone stay of each of *ids*, durably; of one that is there the later time (epoch seconds) counts.

        Raises:
            StateError: when the key is gone and any target has tombstones made with it.
        """
        if not len(ids):
            return
        key = self._key or keyed.read_key(self._keys) or keyed.make_key(self._keys)
        codes = dict(self._codes)
        for code, when in zip(_codes(key, ids), np.broadcast_to(at, len(ids)).tolist(), strict=True):
            codes[code.tobytes()] = max(when, codes.get(code.tobytes(), when))
        if codes != self._codes:
            _write_list(self._path, key, codes)
        self._key = key
        self._take(codes)

    def join(self, other: "Tombstones") -> None:
        """Take in, durably, the codes of another list that was made with the same key; the later time counts."""
        codes = dict(self._codes)
        for code, at in other._codes.items():
            codes[code] = max(at, codes.get(code, at))
        if codes != self._codes:
            self._key = other._key
            _write_list(self._path, self._key, codes)
            self._take(codes)

    def of(self, ids: Ids) -> Mask:
        """Return which of *ids* were forgotten."""
        found = np.zeros(len(ids), np.bool_)
        if self._codes:
            for start in range(0, len(ids), _CHUNK):
                codes = _codes(self._key, ids[start : start + _CHUNK])
                # The sieve turns nearly all away, half a code finds who may be one, and the whole code says who is.
                halves = codes.view(np.uint64)[::2]
                likely = np.flatnonzero(self._sieve[_sieve_place(halves)])
                place = np.minimum(np.searchsorted(self._halves, halves[likely]), len(self._halves) - 1)
                for maybe in likely[self._halves[place] == halves[likely]].tolist():
                    found[start + maybe] = codes[maybe].tobytes() in self._codes
        return found

    def since(self, ids: Ids) -> npt.NDArray[np.float64]:
        """Return when each of *ids* was forgotten, in epoch seconds; NaN for those who were not."""
        found = np.full(len(ids), np.nan)
        which = np.flatnonzero(self.of(ids))
        for place, code in zip(which.tolist(), _codes(self._key, ids[which]) if len(which) else (), strict=True):
            found[place] = self._codes[code.tobytes()]
        return found

    def later_than(self, latest: float) -> int:
        """Return how many clients were forgotten after *latest*, by the time that is kept."""
        return sum(at > latest for at in self._codes.values())

    def bring_back(self, latest: float, now: float) -> None:
        """Keep *now* as the time of those that were forgotten after *latest*."""
        codes = {code: now if at > latest else at for code, at in self._codes.items()}
        if codes != self._codes:
            _write_list(self._path, self._key, codes)
            self._take(codes)

    def draft(self, path: Path, map_: IdMap, there: "Tombstones") -> None:
        """Write to *path* what the list of *there* is when the clients of *map_* have their new ids at that target.

        Who was erased and is not listed has no code in it; what *there* had of itself stays, if it is another target.
        """
        key = self._key or there._key
        if not key:
            return
        which = self.of(map_.old)
        codes = {} if there._path == self._path else dict(there._codes)
        pairs = zip(_codes(key, map_.old[which]), _codes(key, map_.new[which]), strict=True)
        for before, after in [(one.tobytes(), other.tobytes()) for one, other in pairs]:
            codes[after] = max(self._codes[before], codes.get(after, 0.0))
        _write_list(path, key, codes)

    def replace(self, path: Path) -> None:
        """Put a draft in the list's place, durably; without one the list stays."""
        if anchor.is_there(path):
            files.move(path, self._path)

    def _take(self, codes: dict[bytes, float]) -> None:
        self._codes = codes
        self._halves = np.sort(np.frombuffer(b"".join(code[:8] for code in codes), np.uint64))
        self._sieve = np.zeros(1 << _SIEVE_BITS if codes else 0, np.bool_)
        self._sieve[_sieve_place(self._halves)] = True


def path_of(keys: Path, target: str) -> Path:
    """Return where a target's list lies."""
    return keys / f"{anchor.tag(target)}.{keyed.TOMBSTONES}"


def _sieve_place(halves: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    return (halves >> np.uint64(64 - _SIEVE_BITS)).astype(np.int64)


def _codes(key: bytes, ids: Ids) -> npt.NDArray[np.void]:
    """Return the code of each id."""
    return keyed.of(key, ids, keyed.TOMBSTONES)


def _head(key: bytes, body: str) -> str:
    return f"{_WORD} {VERSION} {keyed.check(key)} {hashlib.sha256(body.encode()).hexdigest()}"


def _write_list(path: Path, key: bytes, codes: dict[bytes, float]) -> None:
    body = "".join(f"{code.hex()} {at!r}\n" for code, at in sorted(codes.items()))
    files.replace(path, lambda place: place.write_text(f"{_head(key, body)}\n{body}", "ascii"))


def _read_list(path: Path, key: bytes) -> dict[bytes, float]:
    files.check_private(path)
    with files.storing(path):
        text = path.read_bytes()
    try:
        head, _, body = text.decode("ascii").partition("\n")
        if not head.startswith(f"{_WORD} ") or head.count(" ") != 3:
            raise ValueError("no list of tombstones")
        _, version, check, _ = head.split(" ")
        if version != str(VERSION):
            raise ValueError(f"version {version} of the list; this program knows {VERSION}")
        if check != keyed.check(key):
            raise keyed.key_wrong(path.parent, path)
        if head != _head(key, body):
            raise ValueError("it does not match its digest")
        lines = [(first, second) for first, second in (line.split(" ") for line in body.splitlines())]
        return {bytes.fromhex(code): float(at) for code, at in lines}
    except ValueError as exc:
        raise _damaged(path, str(exc)) from exc


def _damaged(path: Path, why: str) -> StateDamagedError:
    return StateDamagedError(
        f"{path.absolute()}: damaged ({why}). Nothing was sent. Restore it from the backup of the keys. If there "
        "is none, move it away, `forget` once more whom you can name, and give up the others with `consent-sync state "
        "restored --none --erased-missing N`."
    )
