"""Four channels, two bits each: the byte that every other module speaks of.

A byte holds a value per channel, Sms in the lowest two bits. State, Due, Sent and targets use NOTHING, DENIED and
ALLOWED; a Statement also BLANK: the export has the client and states nothing of this channel.
"""

from collections.abc import Iterable, Sequence
from functools import cache

import numpy as np
import numpy.typing as npt

Bytes = npt.NDArray[np.uint8]
Ids = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]

CHANNELS = ("Sms", "Email", "Push", "EmailOnlineCheque")
FIELDS = tuple(f"Allow{channel}" for channel in CHANNELS)
SHIFTS = (0, 2, 4, 6)

NOTHING, DENIED, ALLOWED, BLANK = 0, 1, 2, 3
LETTERS = "-FT-"  # the letter of each value, in results and proofs: T allowed, F denied, - nothing

# One bit a channel, at the channel's lower bit: the form in which channels are chosen and compared.
LOW_BITS = np.uint8(0b01010101)
ALL_BLANK = 0xFF  # in the export, nothing stated
NOBODY = np.zeros(0, np.int32)
FIRST_ID, LAST_ID = 1, 2**31 - 1  # the platform's `Client` is a signed 32-bit integer (its help page)


def pack(values: Sequence[int]) -> int:
    """Return the byte that holds one value per channel, in the order of CHANNELS."""
    return sum(value << shift for value, shift in zip(values, SHIFTS, strict=True))


def unpack(byte: int) -> tuple[int, ...]:
    """Return the value of each channel, in the order of CHANNELS."""
    return tuple((byte >> shift) & 3 for shift in SHIFTS)


def pick(channels: Iterable[str], value: int) -> int:
    """Return the byte that holds *value* in the named *channels* and NOTHING elsewhere.

    Raises:
        ValueError: for a name that is no channel; names are matched without case, with or without `Allow`.
    """
    byte = 0
    known = {channel.lower(): shift for channel, shift in zip(CHANNELS, SHIFTS, strict=True)}
    for name in channels:
        shift = known.get(name.strip().lower().removeprefix("allow"))
        if shift is None:
            raise ValueError(f"{name!r} is no channel; the channels are {', '.join(known)}")
        byte |= value << shift
    return byte


def stated(values: Bytes) -> Bytes:
    """Return the channels, one low bit each, that hold anything but NOTHING."""
    return np.asarray((values | (values >> 1)) & LOW_BITS)


def spread(chosen: Bytes) -> Bytes:
    """Return both bits of every channel whose low bit is set: a mask for whole values."""
    return np.asarray(chosen | (chosen << 1), np.uint8)


def deny(values: Bytes, channels: Bytes) -> Bytes:
    """Return *values* with DENIED in these *channels*, one low bit each."""
    return np.asarray((values & ~spread(channels)) | channels, np.uint8)


def denied(values: Bytes) -> Bytes:
    """Return the channels, one low bit each, that hold DENIED."""
    return np.asarray(values & LOW_BITS & ~(values >> 1))


def allowed(values: Bytes) -> Bytes:
    """Return the channels, one low bit each, that hold ALLOWED."""
    return np.asarray((values >> 1) & LOW_BITS & ~values)


def blank(values: Bytes) -> Bytes:
    """Return the channels, one low bit each, that hold BLANK."""
    return np.asarray(values & (values >> 1) & LOW_BITS)


def low_bits(which: Mask) -> Bytes:
    """Return the channels of each client, one low bit each, by a row of truths per client, a column per channel."""
    bits = np.zeros(len(which), np.uint8)
    for column, shift in enumerate(SHIFTS):
        bits |= which[:, column].astype(np.uint8) << np.uint8(shift)
    return bits


def letters(byte: int) -> str:
    """Return the byte as four letters of T, F and -, Sms first."""
    return "".join(LETTERS[value] for value in unpack(byte))


def parse_letters(text: str) -> int:
    """Return the byte that *text*, four letters of T, F and -, stands for.

    Raises:
        ValueError: when it is anything else.
    """
    values = {"T": ALLOWED, "F": DENIED, "-": NOTHING}
    if len(text) != len(CHANNELS) or not set(text) <= set(values):
        raise ValueError(f"{text!r} is not four letters of T, F and -")
    return pack([values[letter] for letter in text])


@cache
def flags(byte: int) -> tuple[bool | None, ...]:
    """Return each channel as the platform writes it: true, false, or none where nothing is stated."""
    return tuple({ALLOWED: True, DENIED: False}.get(value) for value in unpack(byte))
