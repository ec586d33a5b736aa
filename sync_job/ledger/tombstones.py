"""What stays of forgotten clients: a keyed code each, outside the state, so that no export brings them back.

The code is one block of AES-256 over the id, which is a pseudorandom function for messages of one block; ten million
ids are looked up in about a second. Without the key, which never lies in the state, nobody can tell who it was.

The key serves all targets of a folder. Each target has a list of its own: a first line with the version, a code that
tells whether the key is the list's own, and the digest of the rest; then a line for each client, its code and when it
was forgotten. A list that its key does not fit would recognise nobody, so it is refused and never begun anew.
"""

import contextlib
import hashlib
import os
import secrets
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Ids, Mask
from sync_job.consent.id_map import IdMap
from sync_job.errors import StateDamagedError, StateError
from sync_job.ledger import anchor, files

VERSION = 1
_WORD = "consent-sync-tombstones"
_KEY_BYTES = 32
_KEY_MODE = 0o400
_CHUNK = 1 << 20
_CODE = np.dtype("V16")
_SIEVE_BITS = 22  # 4 MiB, which a processor keeps at hand; of 100,000 codes it lets one in forty others through
_CHECK = b"\xff" * _CODE.itemsize  # No id is encrypted as this block: its first twelve bytes are zeros.


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
        path = keys / f"{anchor.tag(target)}.tombstones"
        if not anchor.is_there(keys):
            return cls(keys, path, b"", {})
        files.check_private(keys)
        key = _read_key(keys)
        if not anchor.is_there(path):
            return cls(keys, path, key, {})
        if not key:
            raise _key_gone(keys, path)
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
        key = self._key or _read_key(self._keys) or _make_key(self._keys)
        codes = dict(self._codes)
        for code, when in zip(_codes(key, ids), np.broadcast_to(at, len(ids)).tolist(), strict=True):
            codes[code.tobytes()] = max(when, codes.get(code.tobytes(), when))
        if codes != self._codes:
            _write_list(self._path, key, codes)
        self._key = key
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
            with files.storing(self._path):
                path.replace(self._path)
            files.sync_folder(self._keys)

    def _take(self, codes: dict[bytes, float]) -> None:
        self._codes = codes
        self._halves = np.sort(np.frombuffer(b"".join(code[:8] for code in codes), np.uint64))
        self._sieve = np.zeros(1 << _SIEVE_BITS if codes else 0, np.bool_)
        self._sieve[_sieve_place(self._halves)] = True


def _sieve_place(halves: npt.NDArray[np.uint64]) -> npt.NDArray[np.int64]:
    return (halves >> np.uint64(64 - _SIEVE_BITS)).astype(np.int64)


def _codes(key: bytes, ids: Ids) -> npt.NDArray[np.void]:
    """Return the code of each id."""
    blocks = np.zeros((len(ids), 4), "<i4")  # the same on every machine that a key may be moved to
    blocks[:, 3] = ids
    return np.frombuffer(_encrypt(key, blocks.tobytes()), _CODE)


def _encrypt(key: bytes, blocks: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    # ECB is what it takes to encrypt each block for itself: a code for each id, not a text to be hidden.
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(blocks) + encryptor.finalize()


def _head(key: bytes, body: str) -> str:
    return f"{_WORD} {VERSION} {_encrypt(key, _CHECK).hex()} {hashlib.sha256(body.encode()).hexdigest()}"


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
        if check != _encrypt(key, _CHECK).hex():
            raise StateError(
                f"{_key_path(path.parent).absolute()}: not the key that {path.name} was made with: who was forgotten "
                "would be sent again. Restore the key from the same backup as the list. Nothing was sent."
            )
        if head != _head(key, body):
            raise ValueError("it does not match its digest")
        lines = [(first, second) for first, second in (line.split(" ") for line in body.splitlines())]
        return {bytes.fromhex(code): float(at) for code, at in lines}
    except ValueError as exc:
        raise _damaged(path, str(exc)) from exc


def _key_path(keys: Path) -> Path:
    return keys / "tombstones.key"


def _read_key(keys: Path) -> bytes:
    path = _key_path(keys)
    if not anchor.is_there(path):
        return b""
    files.check_private(path)
    with files.storing(path):
        key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise _damaged(path, f"{len(key)} bytes instead of {_KEY_BYTES}")
    return key


def _make_key(keys: Path) -> bytes:
    """Return the folder's key, made if no other run was first: a second one would lose whom the first knows."""
    files.make_folder(keys)
    files.check_private(keys)
    for path in sorted(keys.glob("*.tombstones")):
        raise _key_gone(keys, path)
    path = _key_path(keys)
    draft = keys / f".{path.name}.{secrets.token_hex(8)}"
    files.replace(draft, lambda place: place.write_bytes(os.urandom(_KEY_BYTES)))
    with files.storing(path):
        draft.chmod(_KEY_MODE)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # Whole or not at all, and never in another's place.
    files.remove(draft)
    return _read_key(keys)


def _key_gone(keys: Path, path: Path) -> StateError:
    return StateError(
        f"{_key_path(keys).absolute()}: gone, and {path.name} cannot be read without it: who was forgotten would be "
        "sent again. Restore the key from its backup. If there is none, move the lists (*.tombstones) away and "
        "`forget` those clients once more. Nothing was sent."
    )


def _damaged(path: Path, why: str) -> StateDamagedError:
    return StateDamagedError(
        f"{path.absolute()}: damaged ({why}). Nothing was sent. Restore it from the backup of the keys, and `forget` "
        "those clients once more who were forgotten since."
    )
