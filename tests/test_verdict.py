"""What an answer means: every row of the table in `docs/architecture.md`."""

from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_job.delivery.verdict import LONGEST_PAUSE_S, Answer, Codes, Failure, Kind, judge, pause_s
from sync_job.delivery.wire import Reply

CODES = Codes(retry=frozenset({7, 9}), not_found=frozenset({8}))
NOW = datetime(2024, 3, 1, 12, 0, 0, tzinfo=UTC)

# (answer, kind, in doubt) where it makes no difference what was answered before.
ROWS = [
    (Answer(200, Reply(0, "")), Kind.DELIVERED, False),
    (Answer(200, Reply(7, "занято")), Kind.TRANSIENT, False),
    (Answer(200, Reply(9, "")), Kind.TRANSIENT, False),
    (Answer(200, Reply(8, "нет")), Kind.REFUSED, False),
    (Answer(200, Reply(1, "")), Kind.REFUSED, False),
    (Answer(200, Reply(-1, "")), Kind.REFUSED, False),
    (Answer(200, None), Kind.GARBLED, True),
    *((Answer(status, detail="/login"), Kind.STOP, False) for status in (300, 301, 302, 303, 304, 307, 308)),
    *((Answer(status), Kind.REFUSED, False) for status in (400, 404, 405, 406, 413, 415, 422)),
    (Answer(401), Kind.STOP, False),
    (Answer(407), Kind.STOP, False),
    (Answer(408), Kind.TRANSIENT, True),
    (Answer(425), Kind.TRANSIENT, False),
    (Answer(429), Kind.BUSY, False),
    (Answer(503), Kind.BUSY, False),
    *((Answer(status), Kind.TRANSIENT, True) for status in (500, 502, 504)),
    *((Answer(status), Kind.TRANSIENT, True) for status in (501, 505, 520, 599)),
    *((Answer(status), Kind.REFUSED, False) for status in (402, 409, 410, 418, 451, 499)),
    *((Answer(status), Kind.GARBLED, True) for status in (201, 202, 204, 206)),
    (Answer(failure=Failure.TIMEOUT), Kind.TRANSIENT, True),
    (Answer(failure=Failure.RESET), Kind.TRANSIENT, True),
    (Answer(failure=Failure.NOT_WRITTEN), Kind.TRANSIENT, False),
    (Answer(failure=Failure.NOT_CONNECTED), Kind.TRANSIENT, False),
    (Answer(failure=Failure.CERTIFICATE), Kind.STOP, False),
    (Answer(failure=Failure.NOT_AUTHORISED), Kind.STOP, False),
]


@pytest.mark.parametrize("good_before", [False, True])
@pytest.mark.parametrize(("answer", "kind", "doubt"), ROWS, ids=lambda value: str(value)[:60])
def test_answer_means_what_the_table_says(answer: Answer, kind: Kind, doubt: bool, good_before: bool) -> None:
    """Kind and doubt of every answer, whatever came before it; and each verdict says why."""
    verdict = judge(answer, CODES, good_before=good_before)
    assert (verdict.kind, verdict.doubt) == (kind, doubt)
    assert verdict.why


@pytest.mark.parametrize(("good_before", "kind"), [(False, Kind.STOP), (True, Kind.BUSY)])
def test_403_is_a_throttle_only_after_good_answers(good_before: bool, kind: Kind) -> None:
    """At the start it is a wrong address or key; later it is the limiter of a web server."""
    verdict = judge(Answer(403), Codes(), good_before=good_before)
    assert (verdict.kind, verdict.doubt) == (kind, False)


def test_reply_counts_at_status_200_alone() -> None:
    """A body that looks like success does not make another status a delivery."""
    for status in set(range(100, 600)) - {200}:
        assert judge(Answer(status, Reply(0, "")), CODES, good_before=True).kind is not Kind.DELIVERED, status


def test_retry_code_goes_before_not_found_and_zero_is_success_whatever_is_configured() -> None:
    """A code in both lists is tried again; 0 cannot be configured away."""
    both = Codes(retry=frozenset({0, 8}), not_found=frozenset({0, 8}))
    assert judge(Answer(200, Reply(8, "")), both, good_before=True).kind is Kind.TRANSIENT
    assert judge(Answer(200, Reply(0, "")), both, good_before=True).kind is Kind.DELIVERED


def test_not_found_is_told_from_another_refusal() -> None:
    """The report can say which refusals mean that the platform has no such member."""
    assert "not found" in judge(Answer(200, Reply(8, "нет")), CODES, good_before=True).why
    assert "not found" not in judge(Answer(200, Reply(1, "нет")), CODES, good_before=True).why


def test_verdict_says_what_the_platform_or_the_network_said() -> None:
    """The reason holds the platform's code and message, the redirect's target, and the failure's text."""
    assert "ErrorCode 1 (отказ)" in judge(Answer(200, Reply(1, "отказ")), CODES, good_before=True).why
    assert "/login" in judge(Answer(302, detail="/login"), CODES, good_before=True).why
    assert "pipe" in judge(Answer(failure=Failure.RESET, detail="pipe"), CODES, good_before=True).why


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        (None, 0.0),
        ("", 0.0),
        ("0", 0.0),
        ("1", 1.0),
        (" 120 ", 120.0),
        ("300", 300.0),
        ("301", LONGEST_PAUSE_S),
        ("9" * 5000, LONGEST_PAUSE_S),
        (format_datetime(NOW + timedelta(seconds=30), usegmt=True), 30.0),
        ("Fri, 01 Mar 2024 14:00:30 +0200", 30.0),
        ("Fri, 01 Mar 2024 12:00:30 -0000", 30.0),
        ("Friday, 01-Mar-24 12:00:30 GMT", 30.0),
        (format_datetime(NOW - timedelta(seconds=30), usegmt=True), 0.0),
        (format_datetime(NOW + timedelta(days=30), usegmt=True), LONGEST_PAUSE_S),
        ("-5", 0.0),
        ("1.5", 0.0),
        ("²", 0.0),
        ("soon", 0.0),
        ("Fri, 99 Mar 2024 12:00:30 GMT", 0.0),
        ("Fri, 01 Mar 99999999999999 12:00:30 GMT", 0.0),
        ("Fri, 01 Mar 2024 12:00:30 +9999999999999999999", 0.0),
    ],
    ids=lambda value: str(value)[:40],
)
def test_retry_after_is_seconds_or_a_date_and_never_over_its_cap(header: str | None, seconds: float) -> None:
    """What cannot be read asks for no pause, and no text asks for more than five minutes."""
    assert pause_s(header, NOW) == seconds


@given(
    st.text()
    | st.from_regex(r"\A[A-Z][a-z]{2}, [0-9]{1,25} Mar [0-9]{1,25} [0-9]{1,25}:00:00 [+-][0-9]{1,25}\Z")
    | st.from_regex(r"\A[A-Z][a-z]{2}, 01 Mar [0-9]{1,4} 00:00:00 [+-][0-9]{4}\Z")
)
def test_no_retry_after_raises(header: str) -> None:
    """Whatever a server writes there, the pause is between none and the cap."""
    assert 0.0 <= pause_s(header, NOW) <= LONGEST_PAUSE_S
