import numpy as np
import pytest

from sync_job.consent.channels import (
    ALLOWED,
    BLANK,
    CHANNELS,
    DENIED,
    FIELDS,
    NOTHING,
    Bytes,
    allowed,
    denied,
    flags,
    letters,
    pack,
    parse_letters,
    pick,
    spread,
    stated,
    unpack,
)

EVERY_BYTE = np.arange(256).astype(np.uint8)


def _low_bits(byte: int, *values: int) -> int:
    """Return the low bit of each channel of *byte* that holds one of *values*, bit by bit."""
    return sum(4**place for place, value in enumerate(unpack(byte)) if value in values)


def _all_low_bits(*values: int) -> list[int]:
    return [_low_bits(byte, *values) for byte in range(256)]


def test_sms_stands_in_the_lowest_two_bits_and_the_cheque_in_the_highest() -> None:
    """The place of each channel in the byte is part of every format on disk."""
    assert CHANNELS == ("Sms", "Email", "Push", "EmailOnlineCheque")
    assert FIELDS == ("AllowSms", "AllowEmail", "AllowPush", "AllowEmailOnlineCheque")
    assert [pack([ALLOWED if place == channel else NOTHING for place in range(4)]) for channel in range(4)] == [
        0x02,
        0x08,
        0x20,
        0x80,
    ]


def test_every_byte_unpacks_to_the_values_it_was_packed_from() -> None:
    """`pack` and `unpack` undo each other for all 256 bytes."""
    assert [pack(unpack(byte)) for byte in range(256)] == list(range(256))
    assert len({unpack(byte) for byte in range(256)}) == 256


def test_packing_another_number_of_channels_is_refused() -> None:
    """Three values are not a byte."""
    with pytest.raises(ValueError, match="zip"):
        pack([1, 1, 1])


def test_masks_find_their_value_in_every_byte() -> None:
    """`denied`, `allowed` and `stated` have the low bit of exactly the channels that hold such a value."""
    assert denied(EVERY_BYTE).tolist() == _all_low_bits(DENIED)
    assert allowed(EVERY_BYTE).tolist() == _all_low_bits(ALLOWED)
    assert stated(EVERY_BYTE).tolist() == _all_low_bits(DENIED, ALLOWED, BLANK)


def test_spread_covers_both_bits_of_the_chosen_channels() -> None:
    """Masking with the spread of some channels keeps these and clears the others."""
    for channels in {_low_bits(byte, DENIED) for byte in range(256)}:
        kept: Bytes = EVERY_BYTE & spread(np.full(256, channels, np.uint8))
        for byte in range(256):
            expected = [value if (channels >> 2 * place) & 1 else 0 for place, value in enumerate(unpack(byte))]
            assert unpack(int(kept[byte])) == tuple(expected)


def test_masks_are_bytes() -> None:
    """No mask widens: a table of 150 million stays at a byte a client."""
    for mask in (stated, spread, denied, allowed):
        assert mask(EVERY_BYTE).dtype == np.uint8


@pytest.mark.parametrize(
    ("names", "byte"),
    [
        (["Sms"], 0b01),
        (["AllowSms"], 0b01),
        ([" allowemail "], 0b0100),
        (["PUSH", "EmailOnlineCheque"], 0b01010000),
        (["Sms", "sms"], 0b01),
        ([], 0),
    ],
)
def test_channels_are_picked_by_name(names: list[str], byte: int) -> None:
    """Names count without case, blanks around and the word Allow; naming one twice changes nothing."""
    assert pick(names, DENIED) == byte
    assert pick(names, ALLOWED) == byte << 1


def test_an_unknown_channel_is_refused_by_name() -> None:
    """A misspelled channel is never taken as none."""
    with pytest.raises(ValueError, match="'Fax' is no channel"):
        pick(["Sms", "Fax"], DENIED)


def test_letters_name_each_channel_in_order() -> None:
    """T is allowed, F denied, and a hyphen nothing, whether the export has the client or not."""
    assert letters(pack([ALLOWED, DENIED, NOTHING, BLANK])) == "TF--"


def test_letters_of_a_byte_without_blanks_parse_back_to_it() -> None:
    """For State, Due and Sent the four letters lose nothing."""
    for byte in range(256):
        if BLANK not in unpack(byte):
            assert parse_letters(letters(byte)) == byte


@pytest.mark.parametrize("text", ["", "TF-", "TF---", "tf--", "TFX-", "TF -"])
def test_other_letters_are_refused(text: str) -> None:
    """Only four letters of T, F and - are a byte."""
    with pytest.raises(ValueError, match="not four letters"):
        parse_letters(text)


def test_flags_are_true_false_or_none() -> None:
    """A channel that is not stated is none: it is never written as false."""
    assert flags(pack([ALLOWED, DENIED, NOTHING, BLANK])) == (True, False, None, None)
