"""The words of lists: which channels a withdrawal covers, on what ground, and what counts as evidence of a consent."""

import re
from collections.abc import Container

from sync_job.consent.channels import CHANNELS, LOW_BITS, SHIFTS, pick

BASES = ("consent-withdrawn", "objection", "erasure", "complaint")
# How a consent was not given by anybody: such a row lifts nothing.
METHODS_REFUSED = ("import", "migration", "inferred")
_MARKETING = ("Sms", "Email", "Push")


def scope(text: str) -> int:
    """Return the low bit of each channel that *text* names: "all", "marketing", or channels with commas or blanks.

    Raises:
        ValueError: saying what is wrong.
    """
    names = [name for name in re.split(r"[,;|\s]+", text.strip()) if name]
    if not names:
        raise ValueError('no channel; say "all", "marketing", or channels')
    if len(names) == 1 and names[0].lower() == "all":
        return int(LOW_BITS)
    if len(names) == 1 and names[0].lower() == "marketing":
        return pick(_MARKETING, 1)
    return pick(names, 1)


def scope_text(channels: int) -> str:
    """Return the names of channels, one low bit each."""
    return " ".join(name for name, shift in zip(CHANNELS, SHIFTS, strict=True) if channels >> shift & 1)


def without_ids(text: str, ids: Container[int]) -> str:
    """Return *text* with every number that is one of *ids* replaced by an ellipsis."""
    return re.sub("[0-9]+", lambda found: "…" if int(found[0]) in ids else found[0], text)
