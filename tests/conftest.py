"""What all tests share: a skip is a failure where everything that tests need is said to be there."""

import os
from collections.abc import Generator

import pytest
from hypothesis import settings

# Machines are shared and noisy: no example fails for having been slow.
settings.register_profile("shared", deadline=None)
settings.load_profile("shared")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn skips into failures under CONSENT_SYNC_TEST_ALL=1."""
    report = yield
    if report.skipped and os.environ.get("CONSENT_SYNC_TEST_ALL") == "1" and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, and CONSENT_SYNC_TEST_ALL=1 says that nothing is: {report.longrepr}"
    return report
