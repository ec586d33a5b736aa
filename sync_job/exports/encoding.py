"""Which encoding a text is in: by its byte order mark, by its NULs, or by what its letters make of it."""

import codecs
import re

from charset_normalizer import from_bytes

from sync_job.consent import tokens

UTF_8 = "utf-8"
_MARKS = (  # the longer ones first: that of UTF-16 begins one of UTF-32
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, UTF_8),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# What exports come in beside Unicode; where nothing else tells two of them apart, the first is the likelier one.
CANDIDATES = (
    *("cp1251", "koi8_r", "cp866", "iso8859_5", "mac_cyrillic"),
    *("cp1252", "cp1250", "cp1254", "cp1253", "iso8859_15", "iso8859_2", "iso8859_9", "iso8859_7"),
)
_FLAGS = frozenset(word for word in tokens.BUILT_IN if not word.isascii())
_LOOKED_AT_BYTES = 64 << 10
_WORDS = 2000
_STRANGE = re.compile(r"[^\x00-\x7f]+")
_CELL = re.compile(rb'[^,;\t|\r\n"\x80-\xff]*[\x80-\xff][^,;\t|\r\n"]*')


def of_mark(head: bytes) -> tuple[str, int]:
    """Return the encoding that a byte order mark at the begin of *head* says, and its length; "" and 0 for none."""
    return next(((name, len(mark)) for mark, name in _MARKS if head.startswith(mark)), ("", 0))


def of_nuls(head: bytes) -> str:
    """Return the kind of UTF-16 that has its NULs where *head* has them, the first bytes of a file; "" for neither.

    Digits, delimiters and newlines, of which every table is full, are a NUL and their own byte there.
    """
    half = len(head) // 2
    for name, high in (("utf-16-le", 1), ("utf-16-be", 0)):
        nuls, others = head[high : 2 * half : 2].count(0), head[1 - high : 2 * half : 2].count(0)
        lines = len(head[: 2 * half].decode(name, "replace").splitlines())
        if half and others * 100 <= half and (nuls * 4 >= half if lines > 1 else nuls * 2 >= half):
            return name
    return ""


def of_letters(text: bytes, begin: int) -> str:
    """Return the encoding of *text*, which is UTF-8 up to *begin* and not from there on.

    It is UTF-8 all the same where a tenth of its words are, so that the others are damaged or were put in from
    elsewhere, and where nothing better is found.
    """
    after = text[begin : begin + _LOOKED_AT_BYTES].decode("utf-8", "replace")
    # By words: two letters of another encoding may look like one of UTF-8, a word of them hardly.
    words = _STRANGE.findall(text[:begin].decode("utf-8", "ignore") + after)
    damaged = sum("\ufffd" in word for word in words)
    if (len(words) - damaged) * 10 > damaged:
        return UTF_8
    return _best(set(_CELL.findall(text[max(0, begin - 100) : begin + _LOOKED_AT_BYTES]))) or UTF_8


def _best(cells: set[bytes]) -> str:
    """Return the encoding in which *cells* look most like words; those that flags are made of count first."""
    kept = sorted(cells)[:_WORDS]
    found: dict[str, tuple[float, float]] = {}
    for match in from_bytes(b"\n".join(kept), cp_isolation=list(CANDIDATES), threshold=1):
        for name in {match.encoding, *match.could_be_from_charset} & set(CANDIDATES):
            found[name] = match.chaos, match.coherence
    ranked = []
    # Of very little text the detector makes nothing: then the words of flags and the letters decide alone.
    for name, (chaos, coherence) in (found or dict.fromkeys(CANDIDATES, (0.0, 0.0))).items():
        words = [cell.decode(name, "replace").strip().lower() for cell in kept]
        flags = sum(word in _FLAGS for word in words)
        strange = [letter for word in words for letter in word if not letter.isascii()] or [""]
        signs = sum(not letter.isalpha() for letter in strange) / max(1, len(strange))
        ranked.append((-flags, chaos + signs, -coherence, CANDIDATES.index(name)))
    return CANDIDATES[min(ranked)[-1]]


def plain_name(name: str) -> str:
    """Return how an encoding is called in reports."""
    return codecs.lookup(name).name
