"""Keyed codes of clients, and the key of a folder of keys that they are made with.

A code is one block of AES-256 over the id, which is a pseudorandom function for messages of one block; ten million ids
take about a second. Without the key, which never lies in the state, nobody can tell whose code it is. The key serves
all targets of a folder and every kind of list in it, so it is never made anew while a list needs it.
"""

import contextlib
import os
import secrets
from pathlib import Path

import numpy as np
import numpy.typing as npt

from sync_job.consent.channels import Ids
from sync_job.errors import StateDamagedError, StateError
from sync_job.ledger import anchor, files

CODE = np.dtype("V16")
KEY_NAME = "tombstones.key"
TOMBSTONES, WITHDRAWN = "tombstones", "withdrawn"  # the lists' suffixes
_DOMAINS = {TOMBSTONES: 0, WITHDRAWN: 1}  # so that nobody can tell who is in a list of each kind
_KEY_BYTES = 32
_KEY_MODE = 0o400
_CHECK = b"\xff" * CODE.itemsize  # No id is encrypted as this block: its first eight bytes are zeros.


def of(key: bytes, ids: Ids, kind: str) -> npt.NDArray[np.void]:
    """Return the code that each id has in lists of this kind."""
    blocks = np.zeros((len(ids), 4), "<i4")  # the same on every machine that a key may be moved to
    blocks[:, 2] = _DOMAINS[kind]
    blocks[:, 3] = ids
    return np.frombuffer(_encrypt(key, blocks.tobytes()), CODE)


def check(key: bytes) -> str:
    """Return the code, in hexadecimal, by which a list knows its key again."""
    return _encrypt(key, _CHECK).hex()


def _encrypt(key: bytes, blocks: bytes) -> bytes:
    from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

    # ECB is what it takes to encrypt each block for itself: a code for each id, not a text to be hidden.
    encryptor = Cipher(algorithms.AES(key), modes.ECB()).encryptor()  # noqa: S305
    return encryptor.update(blocks) + encryptor.finalize()


def key_path(keys: Path) -> Path:
    """Return the place of the key."""
    return keys / KEY_NAME


def read_key(keys: Path) -> bytes:
    """Return the key of a folder; b"" if there is none yet.

    Raises:
        StateDamagedError: when it is not what was written.
        StateError: when others may read it.
    """
    path = key_path(keys)
    if not anchor.is_there(path):
        return b""
    files.check_private(path)
    with files.storing(path):
        key = path.read_bytes()
    if len(key) != _KEY_BYTES:
        raise StateDamagedError(
            f"{path.absolute()}: damaged ({len(key)} bytes instead of {_KEY_BYTES}). Nothing was sent. Restore it from "
            "the backup of the keys."
        )
    return key


def make_key(keys: Path) -> bytes:
    """Make the key of a folder that has none, if no other run is first, and return the folder's.

    Raises:
        StateError: when the key is gone and a list of any target was made with it.
    """
    files.make_folder(keys)
    files.check_private(keys)
    for path in sorted((*keys.glob(f"*.{TOMBSTONES}"), *keys.glob(f"*.{WITHDRAWN}"))):
        raise key_gone(keys, path)
    path = key_path(keys)
    draft = keys / f".{path.name}.{secrets.token_hex(8)}"
    files.replace(draft, lambda place: place.write_bytes(os.urandom(_KEY_BYTES)))
    with files.storing(path):
        draft.chmod(_KEY_MODE)
        with contextlib.suppress(FileExistsError):
            os.link(draft, path)  # Whole or not at all, and never in another's place.
    files.remove(draft)
    return read_key(keys)


def key_gone(keys: Path, path: Path) -> StateError:
    """Return the error for a list whose key is missing."""
    return StateError(
        f"{key_path(keys).absolute()}: gone, and {path.name} cannot be read without it: who was forgotten or withdrew "
        "would be sent again. Restore the key from its backup. If there is none, move the folder of keys away: then "
        "the state is taken for a restored backup, and grants nothing until `consent-sync state restored`; `forget` "
        "those clients once more who were forgotten. Nothing was sent."
    )


def key_wrong(keys: Path, path: Path) -> StateError:
    """Return the error for a list that was made with another key."""
    return StateError(
        f"{key_path(keys).absolute()}: not the key that {path.name} was made with: who was forgotten or withdrew would "
        "be sent again. Restore the key from the same backup as the list. Nothing was sent."
    )
