"""Lists of e-mail addresses and phone numbers, and who is meant by them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sync_job.config import Settings
from sync_job.errors import ConfigError, ExportError
from sync_job.exports import lists, lookup
from tests import workbooks

NOW = 1_800_000_000.0
SAID: dict[str, Any] = {"received_at": NOW - 60, "scope": "all", "basis": "objection"}


def _settings(**export: Any) -> Settings:
    return Settings.model_validate(
        {"export": {"as_of": "none"} | export, "endpoint": {"base_url": "https://platform.example.com"}}
    )


def _text(path: Path, *rows: str) -> Path:
    path.write_text("\n".join([*rows, ""]), "utf-8")
    return path


def _clients(found: lists.List) -> list[int]:
    return [int(one) for one in found.table.column("client").to_pylist()]


def _read(path: Path, contacts: Path | str = "", **more: Any) -> lists.List:
    return lists.read_withdrawals(str(path), _settings(), contacts=str(contacts), now=NOW, **(SAID | more))


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        (("E-Mail", "ann@example.com"), "e-mail addresses"),
        (("name,Электронная почта", "Ann,ann@example.com"), "e-mail addresses"),
        (("ann@example.com", "bob@example.com"), "e-mail addresses"),
        (("Client", "ann@example.com", "", "bob@example.com"), "e-mail addresses"),
        (("who", "ann@example.com"), "e-mail addresses"),
        (("phone", "12345678"), "phone numbers"),
        (("Номер телефона;Дата", "+7 916 123-45-67;2026-11-01"), "phone numbers"),
        (("+7 916 123-45-67", "8 (916) 123-45-68"), "phone numbers"),
    ],
)
def test_a_list_without_ids_says_what_it_has(tmp_path: Path, rows: Sequence[str], what: str) -> None:
    """By the name of a column or by what is in it, and what to do."""
    with pytest.raises(ExportError, match=f"this list has {what}, and no ids of clients: give --lookup FILE"):
        _read(_text(tmp_path / "list", *rows))


def test_ids_are_no_numbers_of_phones(tmp_path: Path) -> None:
    """Of ten digits at most; a list that has both is read by its ids."""
    assert _clients(_read(_text(tmp_path / "list", "Client", "2147483647", "7"))) == [7, 2147483647]
    assert _clients(_read(_text(tmp_path / "list", "email,Client", "ann@example.com,7"))) == [7]


def _tables(tmp_path: Path) -> list[Path]:
    """Return one lookup in several formats."""
    rows = [("Ann@Example.com ", 1), ("bob@example.com", 2), ("bob@example.com", 3), (None, 4), ("ann@example.com", 1)]
    book = workbooks.write(tmp_path / "a.xlsx", {"L": workbooks.sheet(("email", "Client"), *rows)})
    text = _text(tmp_path / "a.csv", "Client;email", *[f"{id_};{address or ''}" for address, id_ in rows])
    lines = [f'{{"Client": {id_}, "email": "{address or ""}"}}' for address, id_ in rows]
    table = {"email": [address for address, _ in rows], "Client": [float(id_) for _, id_ in rows]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    return [book, text, _text(tmp_path / "a.jsonl", *lines), tmp_path / "a.parquet"]


@pytest.mark.parametrize("header", ["email", "who", ""])
def test_everybody_with_an_address_withdrew(tmp_path: Path, header: str) -> None:
    """Whatever the formats; who is not found is rejected with that reason, and rows are still those of the list."""
    path = _text(tmp_path / "list", *filter(None, [header]), " BOB@example.com", "ann@example.com", "eve@example.com")
    for table in _tables(tmp_path):
        found = _read(path, table)
        assert _clients(found) == [1, 2, 3]
        assert (found.rows, found.rejected) == (3, 1)
        (reject,) = found.rejects
        assert (reject.line, reject.why.partition(": ")[2]) == (4 if header else 3, "not in the lookup")


def test_numbers_are_their_digits(tmp_path: Path) -> None:
    """Russian mobile ones with 7 or 8; what has letters or lost digits in it is no number."""
    table = _text(tmp_path / "table", "Client,phone", "1,79161234567", '2,"+49 (30) 123-45.67"', "3,8 916 123-45-68")
    rows = ["8(916)123-45-67", "+7 916 123 45 68", "4930 1234567", "84951234567", "7.91612E+10", "9161234567", "x"]
    found = _read(_text(tmp_path / "list", "phone", *rows), table)
    assert _clients(found) == [1, 2, 3]
    assert [one.line for one in found.rejects] == [5, 6, 7, 8]


def test_one_address_of_several_is_no_evidence(tmp_path: Path) -> None:
    """Nobody can tell which of them consented; those with an address of their own count."""
    header = "email,channels,granted_at,method,evidence_ref"
    rows = [f"{name}@example.com,all,2026-11-20,desk,E-1" for name in ("ann", "bob", "eve")]
    for table in _tables(tmp_path):
        path = str(_text(tmp_path / "evidence", header, *rows))
        found = lists.read_reconsents(path, _settings(), contacts=str(table), now=NOW)
        assert _clients(found) == [1]
        assert (found.rows, found.rejected) == (3, 2)
        assert {(one.line, one.why) for one in found.rejects} == {
            (3, "email: several clients in the lookup, nobody can tell which is meant"),
            (4, "email: not in the lookup"),
        }
        erased = _read(_text(tmp_path / "list", "email", "ann@example.com", "bob@example.com"), table, several=False)
        assert (_clients(erased), erased.rejected) == ([1], 1)


def test_ids_go_through_the_id_map(tmp_path: Path) -> None:
    """The CRM's, as those of a list do."""
    ids = _text(tmp_path / "ids.csv", "crm_id,platform_id", "1,11")
    table, path = _tables(tmp_path)[1], _text(tmp_path / "list", "email", "ann@example.com", "bob@example.com")
    found = lists.read_withdrawals(str(path), _settings(id_map=ids), contacts=str(table), now=NOW, **SAID)
    assert _clients(found) == [11]
    assert {one.why for one in found.rejects} == {"email: not in id_map"}


@pytest.mark.parametrize(
    ("table", "why"),
    [
        (("Client,name", "1,ann"), "a lookup has a column 'Client' and one of addresses or numbers"),
        (("id,email", "1,ann@example.com"), "a lookup has a column 'Client'"),
        (("Client,email", "x,ann@example.com"), "1 rows of the lookup have an address and no id"),
        (("Client,email", "1,", "2,none"), "the lookup has no address and no number"),
    ],
)
def test_a_lookup_that_cannot_be_read_is_refused(tmp_path: Path, table: Sequence[str], why: str) -> None:
    """As a whole: who is not found for it would stay allowed."""
    with pytest.raises(ExportError, match=why):
        _read(_text(tmp_path / "list", "email", "ann@example.com"), _text(tmp_path / "table", *table))


def test_a_list_of_ids_needs_no_lookup(tmp_path: Path) -> None:
    """To say one is a mistake, and ids are never taken for numbers of phones."""
    with pytest.raises(ConfigError, match="has ids of clients already: leave --lookup out"):
        _read(_text(tmp_path / "list", "Client", "7"), _tables(tmp_path)[0])


ADDRESSES = st.sampled_from(["a@b.co", "A@B.co ", "c@d.co", "79161234567", "8 916 123-45-67", "+49301234567", "", "x"])


@hypothesis_settings(deadline=None)
@given(
    st.lists(st.tuples(ADDRESSES, st.integers(1, 4)), min_size=1, max_size=8),
    st.lists(ADDRESSES, min_size=1, max_size=8),
)
def test_who_is_meant_is_a_plain_search(
    tmp_path_factory: pytest.TempPathFactory, table: list[tuple[str, int]], rows: list[str]
) -> None:
    """One by one or all at once."""

    def plain(text: str) -> str:
        said = text.strip().lower()
        if "@" in said:
            return said
        digits = "".join(one for one in said if one.isdigit())
        return "" if not digits else "7" + digits[1:] if len(digits) == 11 and digits.startswith("89") else digits

    base = tmp_path_factory.getbasetemp()
    book = {"address": [address for address, _ in table], "Client": [id_ for _, id_ in table]}
    pq.write_table(pa.table(book), base / "lookup.parquet")
    if not any(plain(address) for address, _ in table):
        return
    contacts = lookup.read(str(base / "lookup.parquet"), "address", "", "Client")
    at, ids, counts = contacts.of(pa.array(rows))
    for row, address in enumerate(rows):
        meant = {id_ for one, id_ in table if plain(one) and plain(one) == plain(address)}
        assert counts[row] == len(meant)
        assert sorted(ids[at == row].tolist()) == (sorted(meant) or [0])
