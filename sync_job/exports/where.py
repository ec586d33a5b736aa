"""Which rows of a file are this export's, where it holds others too: by the columns of `[export.where]`."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from sync_job.consent.channels import Mask
from sync_job.errors import ExportError
from sync_job.exports import cells

_OPERATOR = "operator"  # in lower case: a column of this name tells the brands of a platform apart
_SHOWN = 10
_ZEROS = r"^(-?)0*([0-9]+)(\.0+)?$"  # around a number, which they do not change


@dataclass(frozen=True)
class Condition:
    """A column, and what it says in this export's rows: texts as they stand, and whole numbers however written."""

    column: str
    texts: tuple[str, ...]
    numbers: tuple[str, ...]

    def matches(self, column: pa.Array) -> Mask:
        """Return which cells say one of the values; a null is an empty text."""
        if pa.types.is_null(column.type):
            return np.full(len(column), "" in self.texts)
        encoded = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
        text = pc.utf8_trim_whitespace(cells.to_text(encoded.dictionary)).fill_null("")
        said = pc.or_(
            pc.is_in(text, pa.array(self.texts, pa.string())),
            pc.is_in(plain(text), pa.array(self.numbers, pa.string())),
        )
        found = said.take(encoded.indices).fill_null("" in self.texts)
        return np.asarray(found.to_numpy(zero_copy_only=False), np.bool_)


def conditions(settings: Mapping[str, object]) -> tuple[Condition, ...]:
    """Return what `[export.where]` says."""
    found = []
    for column, said in settings.items():
        values = said if isinstance(said, tuple) else (said,)
        texts = tuple(one.strip() for one in values if isinstance(one, str))
        found.append(Condition(column, texts, tuple(str(one) for one in values if isinstance(one, int))))
    return tuple(found)


def plain(text: pa.Array) -> pa.Array:
    """Return *text* with whole numbers as they are written plainly."""
    return pc.replace_substring_regex(text, _ZEROS, r"\1\2")


def check(file: str, names: list[str], where: tuple[Condition, ...]) -> None:
    """Refuse a file that lacks a column by which its rows are told apart.

    Raises:
        ExportError: naming it.
    """
    for one in where:
        if names.count(one.column) != 1:
            raise ExportError(
                f"{file}: {names.count(one.column) or 'no'} columns {one.column!r}, and [export.where] tells by it "
                "which rows are this export's. Mend the export, or [export.where]."
            )


def operator(names: list[str], where: tuple[Condition, ...]) -> str:
    """Return the column that may hold several brands and that nothing is said of; "" for none."""
    said = {one.column for one in where}
    return next((name for name in names if name.strip().lower() == _OPERATOR and name not in said), "")


def count(column: pa.Array) -> Counter[str]:
    """Return how often each value occurs in a column; blank ones are "", and numbers are written plainly."""
    text = pc.utf8_trim_whitespace(cells.to_text(column)).fill_null("")
    found = pc.value_counts(plain(text))
    return Counter(dict(zip(found.field("values").to_pylist(), found.field("counts").to_pylist(), strict=True)))


def check_operators(where: str, column: str, values: Counter[str]) -> None:
    """Refuse rows of several brands, of which one would get the consent of another.

    Raises:
        ExportError: with the values, and the line of the configuration that chooses one.
    """
    if len(values) < 2:
        return
    shown = ", ".join(f"{value or 'blank'} ({count:,} rows)" for value, count in values.most_common(_SHOWN))
    value = next(one for one, _ in values.most_common() if one)
    written = value if value.isascii() and value.isdigit() else json.dumps(value, ensure_ascii=False)
    raise ExportError(
        f"{where}: column {column!r} has several values: {shown}{' …' if len(values) > _SHOWN else ''}. Which rows are "
        f"this export's? Say [export.where] {json.dumps(column) if column != 'Operator' else column} = {written}, or a "
        "list of values."
    )
