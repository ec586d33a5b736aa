"""What stays of forgotten clients: a keyed code each, outside the state, so that no export brings them back.

The code is one block of AES-256 over the id, which is a pseudorandom function for messages of one block; ten million
ids are looked up in a fraction of a second. Without the key, which never lies in the state, nobody can tell who it was.
"""

import os
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Ids, Mask
from sync_job.errors import StateError
from sync_job.ledger import anchor, files

_KEY_BYTES = 32
_CHUNK = 1 << 20
_CODE = np.dtype("V16")


class Tombstones:
    """The forgotten clients of one target."""

    def __init__(self, keys: Path, path: Path, key: bytes, codes: dict[bytes, float]) -> None:
        self._keys, self._path, self._key = keys, path, key
        self._codes = codes
        self._firsts = self._sorted()

    @classmethod
    def open(cls, keys: Path, target: str) -> Self:
        """Return the tombstones of a target; looking makes no key.

        Raises:
            StateError: when there are some and the key is gone, or others may read it.
        """
        path = keys / f"{anchor.tag(target)}.tombstones"
        with files.storing(path):
            there = path.exists()
        if not there:
            return cls(keys, path, b"", {})
        key = _read_key(keys)
        if not key:
            raise StateError(
                f"{_key_path(keys).absolute()}: gone, and {path.name} cannot be read without it: who was forgotten "
                "would be sent again. Restore the key from its backup. Nothing was sent."
            )
        files.check_private(path)
        codes: dict[bytes, float] = {}
        with files.loading(path):
            for line in path.read_text("ascii").splitlines():
                code, at = line.split()
                if len(code) != 2 * _CODE.itemsize:
                    raise ValueError("a code of another length")
                codes[bytes.fromhex(code)] = float(at)
        return cls(keys, path, key, codes)

    def __len__(self) -> int:
        return len(self._codes)

    def add(self, ids: Ids, now: float) -> None:
        """Let a tombstone stay of each of *ids*, durably; one that is there keeps its time."""
        if not len(ids):
            return
        self._key = self._key or _read_key(self._keys) or _make_key(self._keys)
        for code in _codes(self._key, ids):
            self._codes.setdefault(code.tobytes(), now)
        text = "".join(f"{code.hex()} {at!r}\n" for code, at in sorted(self._codes.items()))
        files.replace(self._path, lambda place: place.write_text(text, "ascii"))
        self._firsts = self._sorted()

    def of(self, ids: Ids) -> Mask:
        """Return which of *ids* were forgotten."""
        found = np.zeros(len(ids), np.bool_)
        if self._codes:
            for start in range(0, len(ids), _CHUNK):
                codes = _codes(self._key, ids[start : start + _CHUNK])
                # The first half of a code finds who may be one; the whole code says who is.
                firsts = codes.view(np.uint64)[::2]
                place = np.minimum(np.searchsorted(self._firsts, firsts), len(self._firsts) - 1)
                for maybe in np.flatnonzero(self._firsts[place] == firsts).tolist():
                    found[start + maybe] = codes[maybe].tobytes() in self._codes
        return found

    def since(self, ids: Ids) -> npt.NDArray[np.float64]:
        """Return when each of *ids* was forgotten, in epoch seconds; NaN for those who were not."""
        found = np.full(len(ids), np.nan)
        which = np.flatnonzero(self.of(ids))
        for place, code in zip(which.tolist(), _codes(self._key, ids[which]) if len(which) else (), strict=True):
            found[place] = self._codes[code.tobytes()]
        return found

    def _sorted(self) -> npt.NDArray[np.uint64]:
        return np.sort(np.frombuffer(b"".join(code[:8] for code in self._codes), np.uint64))


def _codes(key: bytes, ids: Ids) -> npt.NDArray[np.void]:
    """Return the code of each id."""
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    blocks = np.zeros((len(ids), 4), np.int32)
    blocks[:, 3] = ids
    # ECB is what it takes to encrypt each block for itself: a code for each id, not a text to be hidden.
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return np.frombuffer(encryptor.update(blocks.tobytes()) + encryptor.finalize(), _CODE)


def _key_path(keys: Path) -> Path:
    return keys / "tombstones.key"


def _read_key(keys: Path) -> bytes:
    path = _key_path(keys)
    with files.storing(path):
        if not path.exists():
            return b""
        files.check_private(path)
        key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise files.damaged(path, f"{len(key)} bytes instead of {_KEY_BYTES}")
    return key


def _make_key(keys: Path) -> bytes:
    files.make_folder(keys)
    key = os.urandom(_KEY_BYTES)

    def write(place: Path) -> None:
        place.write_bytes(key)
        place.chmod(0o400)

    files.replace(_key_path(keys), write)
    return key
