import pytest

from sync_job.errors import ExportError
from sync_job.exports import headers


def test_an_exact_name_goes_before_one_that_is_alike() -> None:
    """Also where it belongs to another column."""
    assert headers.matched("a", ["AllowSms", "allow_sms"], ["AllowSms"]) == {}
    assert headers.matched("a", ["allow_sms", "x"], ["allow_sms", "AllowSMS"]) == {}
    assert headers.matched("a", ["x", "_", ""], ["X", "", "-"]) == {"x": "X"}


@pytest.mark.parametrize(
    ("names", "wanted"), [(["allow_sms", "ALLOWSMS"], ["AllowSms"]), (["allow_sms"], ["AllowSms", "ALLOW SMS"])]
)
def test_names_that_may_be_meant_in_two_ways_are_refused(names: list[str], wanted: list[str]) -> None:
    """Both are named."""
    with pytest.raises(ExportError, match="nobody can tell") as caught:
        headers.matched("a.csv", names, wanted)
    assert all(repr(name) in str(caught.value) for name in max(names, wanted, key=len))
