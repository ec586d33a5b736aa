"""What is said when the first rows were all refused alike: what was answered, and which setting to look at."""

import pytest

from sync_job.config import EndpointSettings
from sync_job.delivery.canary import likely_cause

SETTINGS = EndpointSettings.model_validate({"base_url": "https://loyalty.example", "not_found_codes": (8,)})


@pytest.mark.parametrize(
    ("status", "names"),
    [
        (400, ["[endpoint] format", "token", "operator"]),
        (404, ["[endpoint] base_url", "no such address"]),
        (405, ["[endpoint] base_url", "POST"]),
        (406, ["[endpoint] format"]),
        (413, ["proxy", "large"]),
        (415, ["[endpoint] format"]),
        (422, ["[endpoint] format", "token", "operator"]),
        (409, ["base_url", "proxy"]),
        (418, ["base_url", "proxy"]),
    ],
)
def test_status_names_its_setting(status: int, names: list[str]) -> None:
    """Each refusal that comes as a status leads to what is most likely wrong."""
    said = likely_cause(status, None, f"HTTP {status}", SETTINGS)
    assert said.startswith(f"HTTP {status}: the likely cause is ")
    for name in names:
        assert name in said


def test_codes_that_mean_no_such_client_name_the_column() -> None:
    """The rows are read from a column with other ids, so the platform knows none of them."""
    said = likely_cause(200, 8, "нет клиента", SETTINGS)
    assert said.startswith("ErrorCode 8 (нет клиента)")
    assert "[export.columns] Client" in said
    assert "operator" not in said


@pytest.mark.parametrize(("message", "shown"), [("отказ", "ErrorCode 1 (отказ): "), ("", "ErrorCode 1: ")])
def test_other_codes_name_who_we_are_and_the_column(message: str, shown: str) -> None:
    """Both are possible where nobody has said which codes mean that a client is unknown."""
    said = likely_cause(200, 1, message, SETTINGS)
    assert said.startswith(shown)
    for name in ("operator", "site_code", "token", "[export.columns] Client"):
        assert name in said
