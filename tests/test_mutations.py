"""Histories find old faults that are put back; `make mutations` looks for all of them."""

import pytest

from tests.mutations import MUTATIONS, look_for, table

_QUICK = ("dates of denials are not compared", "the gate at dispatch always says yes")


@pytest.mark.parametrize("fault", _QUICK)
def test_histories_find_a_fault_that_is_put_back(fault: str) -> None:
    """A fault that is put back breaks a law within a few hundred histories, none of which breaks one without it."""
    number = next(place for place, one in enumerate(MUTATIONS) if one.fault == fault)
    found = look_for(number, 300)
    assert found.after, f"{fault}: not found"
    assert found.law in table([found])
