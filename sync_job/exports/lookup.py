"""Who is meant by an e-mail address or a phone number: a table of them beside the ids of clients."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.consent.channels import NOBODY, Ids
from sync_job.errors import ExportError
from sync_job.exports import cells, formats, sources

_EMAIL = r"^[^@\s]+@[^@\s]+\.[^@\s]+$"
_PHONE = r"^\+?[0-9][0-9 ()\-./\x{00A0}]{5,}$"
_DIGITS = (7, 15)  # of a phone number, by ITU-T E.164
_NAMES = {
    "e-mail addresses": ("email", "emailaddress", "mail", "почта", "электроннаяпочта", "эпочта", "эл.почта"),
    "phone numbers": (
        *("phone", "phonenumber", "tel", "telephone", "mobile", "mobilephone", "msisdn"),
        *("телефон", "номертелефона", "мобильный", "мобильныйтелефон", "сотовый"),
    ),
}


def column_of(names: Sequence[str], wanted: str = "") -> tuple[str, str]:
    """Return which of *names* is of what is *wanted*, by default addresses or numbers; "" twice for none."""
    for what, known in _NAMES.items():
        for name in names:
            if wanted in ("", what) and re.sub(r"[\s_-]", "", name.casefold()) in known:
                return name, what
    return "", ""


def kind_of(column: pa.Array) -> str:
    """Return what all cells of a column look like that are not blank: addresses, numbers, or "" for neither.

    What may be an id is no number of a phone.
    """
    text = pc.utf8_trim_whitespace(cells.to_text(column))
    text = text.filter(pc.fill_null(pc.not_equal(text, ""), False))
    if not len(text):
        return ""
    if pc.all(pc.match_substring_regex(text, _EMAIL)).as_py():
        return "e-mail addresses"
    numbers = pc.replace_substring_regex(text, r"[^0-9]", "")
    long = pc.greater(pc.utf8_length(numbers), 10)
    return "phone numbers" if pc.all(pc.and_(pc.match_substring_regex(text, _PHONE), long)).as_py() else ""


def advice(file: str, what: str) -> ExportError:
    """Return what is said of a list that names people by their addresses or numbers."""
    return ExportError(
        f"{file}: this list has {what}, and no ids of clients: give --lookup FILE, a table of that column and Client."
    )


def plain(column: pa.Array) -> pa.Array:
    """Return each cell as it is compared: an address in lower case, a number as its digits; null for neither.

    A Russian mobile number is the same with 8 before it as with 7: no country's numbers begin with 89.
    """
    text = pc.utf8_lower(pc.utf8_trim_whitespace(cells.to_text(column)))
    is_email = pc.match_substring_regex(text, "@")
    is_phone = pc.match_substring_regex(text, _PHONE)
    number = pc.replace_substring_regex(pc.replace_substring_regex(text, r"\.0+$", ""), r"[^0-9]", "")
    number = pc.replace_substring_regex(number, r"^8(9[0-9]{9})$", r"7\1")
    length = pc.utf8_length(number)
    is_phone = pc.and_(is_phone, pc.and_(pc.greater_equal(length, _DIGITS[0]), pc.less_equal(length, _DIGITS[1])))
    nothing = pa.scalar(None, pa.string())
    return pc.if_else(is_email, text, pc.if_else(is_phone, number, nothing))


@dataclass(frozen=True)
class Contacts:
    """Addresses and numbers as they are compared, and the clients that have each, one after the other."""

    addresses: pa.Array
    begins: npt.NDArray[np.int64]
    clients: Ids

    def of(self, column: pa.Array) -> tuple[npt.NDArray[np.int64], Ids, npt.NDArray[np.int64]]:
        """Return who is meant by each cell of *column*, as rows and clients, and how many are meant by each cell.

        A cell that means nobody is one row with client 0; one that means several is as many.
        """
        place = pc.index_in(plain(column), self.addresses).fill_null(-1).to_numpy(zero_copy_only=False)
        counts = np.where(place < 0, 0, self.begins[place + 1] - self.begins[place])
        rows = np.repeat(np.arange(len(place)), np.maximum(counts, 1))
        within = np.arange(len(rows)) - np.repeat(
            np.cumsum(np.maximum(counts, 1)) - np.maximum(counts, 1), np.maximum(counts, 1)
        )
        at = self.begins[np.maximum(place, 0)][rows] + within
        found = self.clients[np.minimum(at, len(self.clients) - 1)]
        return rows, np.where(place[rows] < 0, np.int32(0), found), counts


def read(path: str, address: str, what: str, client: str, thousands: str = "") -> Contacts:
    """Return the table in *path*: its columns *client* and *address*, or instead of that the one called as *what* is.

    Raises:
        ExportError: when it cannot be read, lacks one of the two, or a row with an address has no id.
    """
    keys, ids, bad = [pa.array([], pa.string())], [NOBODY], 0
    for source in sources.find(path, "auto"):
        with sources.unchanged(source):
            table = formats.table(source, [address, client], [client])
            own = address in table.names and address != client
            named = address if own else column_of([one for one in table.names if one != client], what)[0]
            if table.names.count(client) != 1 or table.names.count(named) != 1:
                raise ExportError(
                    f"{source.name}: a lookup has a column {client!r} and one of addresses or numbers ({address!r}); "
                    f"this has {', '.join(map(repr, table.names[:20]))}. Name its columns so."
                )
            for block in table.blocks([named, client]):
                key = plain(_one(block.table, named))
                problems = cells.Problems(block.table.num_rows)
                id_ = cells.read_ids(_one(block.table, client), client, problems, thousands)
                has = np.asarray(key.is_valid().to_numpy(zero_copy_only=False))
                bad += int(np.count_nonzero(has & (id_ == 0))) + (len(block.rows()[0]) if block.ragged else 0)
                keys.append(key.filter(pa.array(has)))
                ids.append(id_[has])
    if bad:
        raise ExportError(
            f"{path}: {bad:,} rows of the lookup have an address and no id that can be read: somebody on the list "
            "might not be found for it. Mend the lookup."
        )
    encoded = pa.concat_arrays([one.cast(pa.string()) for one in keys]).dictionary_encode()
    pairs = np.unique(np.stack([encoded.indices.to_numpy().astype(np.int64), np.concatenate(ids)]), axis=1)
    if not pairs.shape[1]:
        raise ExportError(f"{path}: the lookup has no address and no number. Nobody can be found by it.")
    begins = np.searchsorted(pairs[0], np.arange(len(encoded.dictionary) + 1))
    return Contacts(encoded.dictionary, begins, pairs[1].astype(np.int32))


def _one(table: pa.Table, name: str) -> pa.Array:
    return table.column(name).combine_chunks() if table.num_rows else pa.array([], pa.string())
