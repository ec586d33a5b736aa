"""The stand-in speaks the platform's contract over real sockets, and misbehaves exactly as it is told to."""

import asyncio
import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar
from urllib.parse import urlencode
from xml.etree import ElementTree as ET

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_job.standin import answers, bodies
from sync_job.standin.background import Standin, running
from sync_job.standin.contract import ABSTRACTIONS, INSTANCE, MODELS, Answer, BindError, Flags
from sync_job.standin.faults import Fault, Schedule, listed
from sync_job.standin.options import Options
from sync_job.standin.platform import CSV_HEADER, Platform
from sync_job.standin.server import Endpoint, listening, serve

PATH = "/api/client/ClientUpdateCommunication"
JSON_TYPES = ["application/json", "text/json"]
XML_TYPES = ["application/xml", "text/xml"]
FORM = "application/x-www-form-urlencoded"
SUCCESS = b'{"ErrorCode":0,"Message":""}'
ALL_ALLOWED = Flags(True, True, True, True)
IDS = itertools.count(100_001, 2)  # odd: never a multiple of 1000
T = TypeVar("T")


class Reply(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: bytes


@pytest.fixture(scope="module")
def calm() -> Iterator[Standin]:
    """Share a stand-in without faults among the tests of the contract; each uses a client of its own."""
    with running(Options(unknown_every=1000)) as standin:
        yield standin


@pytest.fixture
def fresh_id() -> int:
    """Return an id that no other test uses and the calm stand-in knows."""
    return next(IDS)


@pytest.fixture(autouse=True)
def _silent(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Hold every test to this: the stand-in logs nothing, whatever becomes of a connection."""
    yield
    assert not caplog.records


async def send(
    session: aiohttp.ClientSession,
    url: str,
    body: bytes | str,
    content_type: str = "application/json",
    **headers: str,
) -> Reply:
    """Return what one POST of *body* is answered."""
    sent = {"Content-Type": content_type, **headers}
    raw = body.encode() if isinstance(body, str) else body
    async with session.post(url + PATH, data=raw, headers=sent, allow_redirects=False) as response:
        return Reply(response.status, dict(response.headers), await response.read())


def in_session(use: Callable[[aiohttp.ClientSession], Awaitable[T]], timeout_s: float = 5.0) -> T:
    """Return what *use* makes of a session, closed before."""

    async def main() -> T:
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=timeout_s)) as session:
            return await use(session)

    return asyncio.run(main())


def post(
    url: str,
    body: bytes | str,
    content_type: str = "application/json",
    timeout_s: float = 5.0,
    **headers: str,
) -> Reply:
    """Return what one POST on a connection of its own is answered."""
    return in_session(lambda session: send(session, url, body, content_type, **headers), timeout_s)


def fetch(url: str) -> Reply:
    """Return what a GET is answered."""

    async def use(session: aiohttp.ClientSession) -> Reply:
        async with session.get(url) as response:
            return Reply(response.status, dict(response.headers), await response.read())

    return in_session(use)


def update(client: int, **members: object) -> str:
    """Return a JSON body; without members it allows all four channels."""
    flags = dict.fromkeys(("AllowSms", "AllowEmail", "AllowPush", "AllowEmailOnlineCheque"), True)
    return json.dumps({"Client": client, **(members or flags)})


def xml(*members: str, root: str = "ClientUpdateCommunicationRequest", namespace: str = MODELS) -> str:
    """Return an XML body that holds *members* in this order."""
    return f'<{root} xmlns:i="{INSTANCE}" xmlns="{namespace}">{"".join(members)}</{root}>'


def base(name: str, value: object) -> str:
    """Return a member of the base class."""
    return f'<{name} xmlns="{ABSTRACTIONS}">{value}</{name}>'


def until(condition: Callable[[], bool], patience_s: float = 5.0) -> None:
    """Return once *condition* holds, looked at every few milliseconds."""
    end_s = time.monotonic() + patience_s
    while not condition():
        assert time.monotonic() < end_s, "the condition never came to hold"
        threading.Event().wait(0.002)


# ---- request types -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", [*JSON_TYPES, "application/json; charset=utf-8", "TEXT/JSON"])
def test_json_binds_every_member(calm: Standin, fresh_id: int, content_type: str) -> None:
    """The help page's own JSON request is applied."""
    body = (
        f'{{"Client": {fresh_id}, "AllowSms": true, "AllowEmail": true, "AllowPush": true, '
        '"AllowEmailOnlineCheque": true, "Operator": 1, "Token": 1, "SiteCode": "sample string 2"}'
    )
    reply = post(calm.url, body, content_type)
    assert (reply.status, reply.body) == (200, SUCCESS)
    assert reply.headers["Content-Type"] == "application/json; charset=utf-8"
    assert calm.platform.state[fresh_id] == ALL_ALLOWED


@pytest.mark.parametrize("content_type", [*XML_TYPES, "text/xml; charset=utf-8"])
def test_xml_binds_every_member(calm: Standin, fresh_id: int, content_type: str) -> None:
    """The help page's own XML request is applied, with white space between members and a declaration."""
    members = [
        base("Operator", 1),
        base("SiteCode", "sample string 2"),
        base("Token", 1),
        "<AllowEmail>true</AllowEmail>",
        "<AllowEmailOnlineCheque>true</AllowEmailOnlineCheque>",
        "<AllowPush>true</AllowPush>",
        "<AllowSms>true</AllowSms>",
        f"<Client>{fresh_id}</Client>",
    ]
    body = '<?xml version="1.0" encoding="utf-8"?>\n' + xml(*(f"\n  {member}" for member in members))
    reply = post(calm.url, body, content_type)
    assert (reply.status, reply.body) == (200, SUCCESS)
    assert calm.platform.state[fresh_id] == ALL_ALLOWED
    assert bodies.parse("text/xml", body.encode()) == (fresh_id, ALL_ALLOWED, 1, 1, "sample string 2")


def test_form_binds_every_member(calm: Standin, fresh_id: int) -> None:
    """A form states flags as true and false in any case, its names matched without case."""
    fields = {"client": fresh_id, "AllowSms": "True", "ALLOWEMAIL": "FALSE", "AllowPush": "true"}
    reply = post(calm.url, urlencode({**fields, "Operator": 1, "SiteCode": "а б"}), FORM)
    assert (reply.status, reply.body) == (200, SUCCESS)
    assert calm.platform.state[fresh_id] == Flags(True, False, True, None)


@pytest.mark.parametrize("content_type", ["text/plain", "application/octet-stream", "multipart/form-data"])
def test_other_content_types_are_not_read(calm: Standin, content_type: str) -> None:
    """A type that the contract does not name is answered 415."""
    assert post(calm.url, update(1), content_type).status == 415


# ---- flags ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("application/json", '{{"Client": {id}, "AllowSms": false, "AllowEmail": null}}'),
        ("application/xml", xml('<AllowEmail i:nil="true"/>', "<AllowSms>false</AllowSms>", "<Client>{id}</Client>")),
        (FORM, "Client={id}&AllowSms=false&AllowEmail="),
    ],
)
def test_flags_that_are_null_or_left_out_stay(content_type: str, body: str) -> None:
    """Only the stated flag changes; null and absence are the same."""
    with running(Options(state={7: Flags(True, True, None, False)})) as standin:
        filled = body.replace("{{", "{").replace("}}", "}").replace("{id}", "7")
        assert post(standin.url, filled, content_type).body == SUCCESS
        assert standin.platform.state == {7: Flags(False, True, None, False)}


def test_nothing_stated_leaves_no_row(calm: Standin, fresh_id: int) -> None:
    """A member of whom nothing was ever stated is not in the state, though the request succeeds."""
    assert post(calm.url, f'{{"Client": {fresh_id}}}').body == SUCCESS
    assert fresh_id not in calm.platform.state
    assert calm.platform.log[-1].client == fresh_id


@pytest.mark.parametrize("value", ["1", "0", "on", "yes", "true,false"])
def test_form_flags_are_words(calm: Standin, fresh_id: int, value: str) -> None:
    """A form's flag that is neither true nor false does not bind: 400, no body, nothing applied."""
    reply = post(calm.url, urlencode({"Client": fresh_id, "AllowSms": value}), FORM)
    assert (reply.status, reply.body) == (400, b"")
    assert fresh_id not in calm.platform.state


@pytest.mark.parametrize(
    ("text", "flag"), [("true", True), ("1", True), (" false ", False), ("0", False), ("<![CDATA[1]]>", True)]
)
def test_xml_flags_are_words_or_digits(calm: Standin, fresh_id: int, text: str, flag: bool) -> None:
    """XML reads 1 and 0 as well, with white space around."""
    body = xml(f"<AllowSms>{text}</AllowSms>", f"<Client>{fresh_id}</Client>")
    assert post(calm.url, body, "text/xml").body == SUCCESS
    assert calm.platform.state[fresh_id].sms is flag


def test_json_names_have_no_case_and_the_last_counts(calm: Standin, fresh_id: int) -> None:
    """Names that differ only in case are one member; unknown members are passed over."""
    body = f'{{"CLIENT": {fresh_id}, "allowsms": true, "Extra": [{{"Client": 5}}], "AllowSMS": false}}'
    assert post(calm.url, body).body == SUCCESS
    assert calm.platform.state[fresh_id] == Flags(sms=False)


# ---- XML order and safety ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("members", "kept"),
    [
        (["<AllowSms>true</AllowSms>", "<AllowEmail>true</AllowEmail>"], Flags(sms=True)),
        (["<AllowPush>true</AllowPush>", "<AllowEmailOnlineCheque>true</AllowEmailOnlineCheque>"], Flags(push=True)),
        (["<AllowEmail>true</AllowEmail>", base("Token", 1), "<AllowSms>true</AllowSms>"], Flags(True, True)),
        ([base("AllowEmail", "true"), "<AllowSms>true</AllowSms>"], Flags(sms=True)),
        (['<AllowEmail xmlns="">true</AllowEmail>', "<AllowSms>true</AllowSms>"], Flags(sms=True)),
        (["<allowEmail>true</allowEmail>", "<AllowSms>true</AllowSms>"], Flags(sms=True)),
        (["<AllowSms>true</AllowSms>", "<AllowSms>false</AllowSms>"], Flags(sms=True)),
        (["<Zebra><AllowSms>x</AllowSms></Zebra>", "<AllowSms>true</AllowSms>"], Flags(sms=True)),
    ],
)
def test_xml_drops_in_silence_what_is_out_of_place(
    calm: Standin, fresh_id: int, members: list[str], kept: Flags
) -> None:
    """Out of order, doubled, or in a wrong namespace or case: dropped, and the answer is success all the same."""
    reply = post(calm.url, xml(*members, f"<Client>{fresh_id}</Client>"), "application/xml")
    assert (reply.status, reply.body) == (200, SUCCESS)
    assert calm.platform.state[fresh_id] == kept


def test_xml_client_first_drops_every_flag(calm: Standin, fresh_id: int) -> None:
    """Client is the last member: what follows it is lost, and the answer says success."""
    reply = post(calm.url, xml(f"<Client>{fresh_id}</Client>", "<AllowSms>false</AllowSms>"), "text/xml")
    assert (reply.status, reply.body) == (200, SUCCESS)
    assert fresh_id not in calm.platform.state


ENTITY = '<!DOCTYPE r [<!ENTITY e SYSTEM "file:///etc/hostname">]>'
LAUGHS = '<!DOCTYPE r [<!ENTITY a "1"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize(
    "body",
    [
        ENTITY + xml("<Client>&e;</Client>"),
        LAUGHS + xml("<Client>&b;</Client>"),
        "<!DOCTYPE r>" + xml("<Client>1</Client>"),
        xml("<Client>&unknown;</Client>"),
        xml("<Client>1</Client>", root="Other"),
        xml("<Client>1</Client>", namespace=ABSTRACTIONS),
        xml('<Client i:nil="true"/>'),
        xml('<AllowSms i:nil="true">true</AllowSms>', "<Client>1</Client>"),
        xml("<AllowSms/>", "<Client>1</Client>"),
        xml("<AllowSms>True</AllowSms>", "<Client>1</Client>"),
        xml("<AllowSms><b/></AllowSms>", "<Client>1</Client>"),
        xml("text", "<Client>1</Client>"),
        xml("<Client>1</Client>")[:-3],
        '<?xml version="1.0" encoding="no-such"?>' + xml("<Client>1</Client>"),
        "",
        "{}",
    ],
)
def test_xml_that_does_not_bind(calm: Standin, body: str) -> None:
    """Declared entities, another root, a wrong type or no XML at all: 400 and no body."""
    before = len(calm.platform.log)
    reply = post(calm.url, body, "application/xml")
    assert (reply.status, reply.body) == (400, b"")
    assert len(calm.platform.log) == before


# ---- numbers and malformed bodies ----------------------------------------------------------------------------------


@pytest.mark.parametrize("content_type", ["application/json", "application/xml", FORM])
@pytest.mark.parametrize(
    ("name", "value", "binds"),
    [
        ("Client", 2**31 - 1, True),
        ("Client", 2**31, False),
        ("Client", -(2**31), True),
        ("Client", -(2**31) - 1, False),
        ("Client", 10**30, False),
        ("Client", "1.5", False),
        ("Client", "1_000", False),
        ("Client", "١", False),
        ("Operator", 2**15 - 1, True),
        ("Operator", 2**15, False),
        ("Operator", -(2**15) - 1, False),
        ("Token", 2**31, False),
    ],
)
def test_integers_have_bounds(content_type: str, name: str, value: object, binds: bool) -> None:
    """Client and Token are 32-bit, Operator 16-bit; beyond that, and for anything but digits, nothing binds."""
    body = {
        "application/json": f'{{"{name}": {value}}}',
        "application/xml": xml(f"<{name}>{value}</{name}>" if name == "Client" else base(name, value)),
        FORM: urlencode({name: str(value)}),
    }[content_type]
    if binds:
        assert value in bodies.parse(content_type, body.encode())
    else:
        with pytest.raises(BindError):
            bodies.parse(content_type, body.encode())


@pytest.mark.parametrize(
    "body",
    [
        "",
        "null",
        "[]",
        '[["Client", 1]]',
        "{",
        '{"Client": "1"}',
        '{"Client": true}',
        '{"Client": null}',
        '{"Client": 1.0}',
        '{"Client": 1, "AllowSms": 1}',
        '{"Client": 1, "AllowSms": "true"}',
        '{"Client": 1, "SiteCode": 5}',
        '{"Client": 1, "AllowSms": {}}',
        "[" * 100_000,
        b'{"Client": 1, "SiteCode": "\xff"}',
    ],
)
def test_json_that_does_not_bind(calm: Standin, body: str | bytes) -> None:
    """A wrong type, a wrong shape or no JSON at all: 400 and no body."""
    reply = post(calm.url, body)
    assert (reply.status, reply.body) == (400, b"")


@pytest.mark.parametrize("body", ["Client=", "Client=%ff", b"\xff", "Client=1&Operator=x", "&".join(["a=1"] * 1001)])
def test_form_that_does_not_bind(calm: Standin, body: str | bytes) -> None:
    """An empty or a wrong number, broken escapes or far too many fields: 400 and no body."""
    reply = post(calm.url, body, FORM)
    assert (reply.status, reply.body) == (400, b"")


@given(st.binary(max_size=200), st.sampled_from([*JSON_TYPES, *XML_TYPES, FORM]))
def test_no_body_breaks_the_reader(body: bytes, content_type: str) -> None:
    """Any bytes bind or do not; nothing else is raised."""
    with suppress(BindError):
        bodies.parse(content_type, body)


# ---- members and answers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("body", [update(3000), update(-5), update(0), '{"AllowSms": true}'])
def test_unknown_member_is_refused(calm: Standin, body: str) -> None:
    """An id that is no member, or none at all, is answered 200 with a code and a Russian message."""
    reply = post(calm.url, body)
    assert (reply.status, json.loads(reply.body)) == (200, {"ErrorCode": 8, "Message": "Участник не найден"})
    assert "Участник".encode() in reply.body
    assert not {3000, -5, 0} & set(calm.platform.state)
    assert calm.platform.log[-1].answer.error_code == 8


def test_known_members_are_a_set() -> None:
    """Where the ids are given, no other is a member."""
    with running(Options(known=[5], unknown=Answer(44, "нет"))) as standin:
        assert json.loads(post(standin.url, update(5)).body)["ErrorCode"] == 0
        assert json.loads(post(standin.url, update(6)).body) == {"ErrorCode": 44, "Message": "нет"}
        assert set(standin.platform.state) == {5}


@pytest.mark.parametrize("accept", XML_TYPES)
def test_xml_answer_to_the_byte(accept: str) -> None:
    """The answer is the help page's, with `<`, `>` and `&` escaped."""
    with running(Options(unknown_every=1, unknown=Answer(8, "Участник <не> & найден"))) as standin:
        reply = post(standin.url, update(1), Accept=accept)
    assert reply.headers["Content-Type"] == f"{accept}; charset=utf-8"
    assert reply.body.decode() == (
        '<ClientUpdateCommunicationResponse xmlns:i="http://www.w3.org/2001/XMLSchema-instance" '
        'xmlns="http://schemas.datacontract.org/2004/07/LCManagerPartner.Models"><ErrorCode>8</ErrorCode>'
        "<Message>Участник &lt;не&gt; &amp; найден</Message></ClientUpdateCommunicationResponse>"
    )
    assert ET.fromstring(reply.body)[1].text == "Участник <не> & найден"  # noqa: S314 - our own answer


@pytest.mark.parametrize(
    ("accept", "media"),
    [
        ("*/*", "application/json"),
        ("", "application/json"),
        ("text/html", "application/json"),
        ("text/json", "text/json"),
        ("text/*", "text/json"),
        ("application/json;q=0.5, Text/XML", "text/xml"),
        ("application/xml;q=0.2, application/json;q=0.9", "application/json"),
        ("application/xml;q=0, */*;q=0.1", "application/json"),
        ("text/html, application/xml;q=0.9", "application/xml"),
        ("application/xml;q=1.2.3", "application/json"),
    ],
)
def test_answer_type_follows_accept(accept: str, media: str) -> None:
    """The best accepted type is written, and JSON when there is none."""
    assert answers.negotiate(accept) == media


def test_message_ends_after_a_hundred_characters() -> None:
    """A message is as long as the procedure's parameter."""
    assert json.loads(answers.write(Answer(1, "я" * 150), "text/json"))["Message"] == "я" * 100


def test_log_tells_what_came_in_order() -> None:
    """The log holds each request that reached the members, with what it stated and was answered."""
    ticks = iter([1.5, 2.5])
    platform = Platform(unknown_every=2, clock=lambda: next(ticks))
    platform.apply(bodies.parse("text/json", update(1, AllowPush=False).encode()))
    platform.apply(bodies.parse("text/json", update(2, AllowPush=True).encode()))
    assert platform.log == [
        (1, 1.5, 1, Flags(push=False), Answer(0)),
        (2, 2.5, 2, Flags(push=True), Answer(8, "Участник не найден")),
    ]


def test_log_can_be_left_out() -> None:
    """Without a log the entries are still counted."""
    platform = Platform(keep_log=False)
    platform.apply(bodies.parse("text/json", update(1).encode()))
    assert (platform.entries, platform.log) == (1, [])


def test_state_is_shown_as_an_export() -> None:
    """The CSV has an export's columns, is sorted by client, and leaves empty what was never stated."""
    with running(Options(state={20: Flags(), 3: Flags(True, False, None, True)})) as standin:
        post(standin.url + "/partner", update(10, AllowEmail=False))
        state, counts = fetch(standin.url + "/standin/state"), fetch(standin.url + "/standin/requests")
    assert state.body.decode() == f"{CSV_HEADER}\n3,true,false,,true\n10,,false,,\n20,,,,\n"
    assert state.headers["Content-Type"] == "text/csv; charset=utf-8"
    shown = json.loads(counts.body)
    assert (shown["requests"], shown["entries"]) == (1, 1)


def test_paths(calm: Standin, fresh_id: int) -> None:
    """Any base path leads to the endpoint, without case; it takes POST alone, and other paths are not found."""
    assert post(calm.url + "/partner/v2", update(fresh_id)).body == SUCCESS
    assert fetch(calm.url + PATH).status == 405
    assert fetch(calm.url + "/elsewhere").status == 404
    assert post(calm.url + "/standin/state#", update(1)).status == 404


# ---- faults --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fault", "status", "applied"),
    [
        (Fault.UNAVAILABLE, 503, False),
        (Fault.UNAVAILABLE_RETRY_AFTER, 503, False),
        (Fault.TOO_MANY, 429, False),
        (Fault.TOO_MANY_RETRY_AFTER, 429, False),
        (Fault.ERROR_BEFORE, 500, False),
        (Fault.ERROR_AFTER, 500, True),
        (Fault.REFUSE, 200, False),
        (Fault.GARBAGE, 200, False),
        (Fault.REDIRECT, 302, False),
        (Fault.UNAUTHORISED, 401, False),
        (Fault.FORBIDDEN, 403, False),
    ],
)
def test_faults_that_answer(fault: Fault, status: int, applied: bool) -> None:
    """Each fault answers its status, applies the update or not, and leaves the next request alone."""
    with running(Options(script=listed([fault]), retry_after_s=7)) as standin:
        reply = post(standin.url, update(1))
        assert reply.status == status
        assert (1 in standin.platform.state) is applied
        assert reply.headers.get("Retry-After") == ("7" if "retry-after" in fault else None)
        assert post(standin.url, update(2)).body == SUCCESS
        assert standin.requests == 2


def test_refusal_has_a_code_and_a_message() -> None:
    """A refused request is a good answer that says no, in the type that was accepted."""
    with running(Options(every={Fault.REFUSE: 1}, refusal=Answer(-3, "Нет"))) as standin:
        assert json.loads(post(standin.url, update(1)).body) == {"ErrorCode": -3, "Message": "Нет"}
        assert b"<ErrorCode>-3</ErrorCode>" in post(standin.url, update(1), Accept="text/xml").body


def test_garbage_is_a_page() -> None:
    """What a proxy puts in the platform's place is HTML."""
    with running(Options(every={Fault.GARBAGE: 1})) as standin:
        reply = post(standin.url, update(1))
    assert reply.headers["Content-Type"] == "text/html; charset=utf-8"
    assert reply.body.startswith(b"<!DOCTYPE html>")


def test_redirect_leads_to_a_page_that_answers_200() -> None:
    """A sender that follows the redirect is taken in."""
    with running(Options(every={Fault.REDIRECT: 1})) as standin:
        location = post(standin.url, update(1)).headers["Location"]
        assert fetch(standin.url + location).status == 200


@pytest.mark.parametrize(("fault", "applied"), [(Fault.RESET_BEFORE, False), (Fault.RESET_AFTER, True)])
def test_reset_is_a_reset(fault: Fault, applied: bool) -> None:
    """The connection ends with a reset and no byte of an answer, before or after the update is applied."""
    with running(Options(script=listed([fault]))) as standin:

        async def exchange() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", standin.port)
            body = update(1).encode()
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: text/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            try:
                return await reader.read()
            finally:
                writer.transport.abort()

        with pytest.raises(ConnectionResetError):
            asyncio.run(exchange())
        assert (1 in standin.platform.state) is applied


def test_stall_applies_and_does_not_answer() -> None:
    """The client times out, and the update is there."""
    with running(Options(script=listed([Fault.STALL]))) as standin:
        with pytest.raises(TimeoutError):
            post(standin.url, update(1), timeout_s=0.05)
        assert standin.platform.state == {1: ALL_ALLOWED}


def test_late_overtakes_a_newer_update() -> None:
    """A late request is applied after one that was sent and acknowledged later, and has the last word."""
    with running(Options(script=listed([Fault.LATE]), late_s=0.15)) as standin:
        with pytest.raises(TimeoutError):
            post(standin.url, update(1, AllowSms=True), timeout_s=0.03)
        assert standin.platform.state == {}
        assert post(standin.url, update(1, AllowSms=False)).body == SUCCESS
        assert standin.platform.state[1].sms is False
        until(lambda: standin.platform.state[1].sms is True)


def test_latency_delays_the_answer() -> None:
    """An answer comes no earlier than the latency."""
    with running(Options(latency_ms=60)) as standin:
        started_s = time.monotonic()
        assert post(standin.url, update(1)).body == SUCCESS
        assert time.monotonic() - started_s >= 0.06


def test_client_that_gives_up_is_applied_all_the_same() -> None:
    """A request that timed out during the latency is applied when its time has come."""
    with running(Options(latency_ms=100)) as standin:
        with pytest.raises(TimeoutError):
            post(standin.url, update(1), timeout_s=0.03)
        until(lambda: 1 in standin.platform.state)


@pytest.mark.parametrize("authorization", ["", "Bearer other", "secret"])
def test_bearer_token_is_required(authorization: str) -> None:
    """Without the token the answer is 401 and nothing is applied; with it all is well."""
    with running(Options(bearer_token="secret")) as standin:  # noqa: S106 - not a secret
        reply = post(standin.url, update(1), Authorization=authorization)
        assert (reply.status, reply.headers["WWW-Authenticate"]) == (401, "Bearer")
        assert post(standin.url, update(2), Authorization="Bearer secret").body == SUCCESS
        assert set(standin.platform.state) == {2}


# ---- schedules -----------------------------------------------------------------------------------------------------


def test_every_nth_request() -> None:
    """The first entry whose number divides the request's comes."""
    schedule = Schedule(every={Fault.STALL: 6, Fault.REFUSE: 3})
    assert [schedule.choose(number) for number in range(1, 7)] == [
        *(None, None, Fault.REFUSE),
        *(None, None, Fault.STALL),
    ]


def test_rates_are_kept_and_repeat() -> None:
    """A seed gives the same faults in any order of asking, another seed others, each about as often as asked."""
    rates = {Fault.UNAVAILABLE: 0.2, Fault.RESET_AFTER: 0.05}
    first, second, other = Schedule(1, rates), Schedule(1, rates), Schedule(2, rates)
    chosen = [first.choose(number) for number in range(1, 4001)]
    assert chosen == [second.choose(number) for number in range(4000, 0, -1)][::-1]
    assert chosen != [other.choose(number) for number in range(1, 4001)]
    assert chosen.count(Fault.UNAVAILABLE) == pytest.approx(800, rel=0.15)
    assert chosen.count(Fault.RESET_AFTER) == pytest.approx(200, rel=0.3)


def test_jitter_has_the_mean_that_was_asked() -> None:
    """The delay is the latency and an exponential jitter."""
    schedule = Schedule(seed=3, latency_s=1.0, jitter_s=0.5)
    delays = [schedule.delay_s(number) for number in range(4000)]
    assert min(delays) >= 1.0
    assert sum(delays) / len(delays) == pytest.approx(1.5, rel=0.05)


def test_script_sees_number_and_client() -> None:
    """A script decides alone, by the request's number and its client."""
    seen: list[tuple[int, int]] = []

    def script(number: int, client: int) -> Fault | None:
        seen.append((number, client))
        return Fault.ERROR_BEFORE if client == 6 else None

    with running(Options(script=script, every={Fault.FORBIDDEN: 1})) as standin:
        assert [post(standin.url, update(client)).status for client in (5, 6)] == [200, 500]
    assert seen == [(1, 5), (2, 6)]


@pytest.mark.parametrize(
    "knobs",
    [
        {"rates": {Fault.STALL: 0.6, Fault.LATE: 0.6}},
        {"rates": {Fault.STALL: -0.1}},
        {"every": {Fault.STALL: 0}},
        {"latency_ms": -1},
        {"unknown_every": -1},
    ],
)
def test_options_that_make_no_sense_are_refused(knobs: dict[str, float]) -> None:
    """A knob out of its range is an error at once, not in the middle of a run."""
    with pytest.raises(ValueError, match="no"):
        Options(**knobs)  # type: ignore[arg-type]


# ---- connections, outages, the record ------------------------------------------------------------------------------


async def said_of_connections(session: aiohttp.ClientSession, url: str, requests: int) -> list[str | None]:
    """Return what each of *requests* says of its connection."""
    return [(await send(session, url, update(1))).headers.get("Connection") for _ in range(requests)]


def test_connection_closes_after_its_requests() -> None:
    """Every third answer says that the connection ends; the others keep it."""
    with running(Options(requests_per_connection=3)) as standin:
        said = in_session(lambda session: said_of_connections(session, standin.url, 7))
    assert said == [None, None, "close", None, None, "close", None]


def test_connection_can_close_unannounced() -> None:
    """The last answer is whole and says nothing of the end that follows it."""
    with running(Options(requests_per_connection=1, announce_close=False)) as standin:

        async def exchange() -> bytes:
            reader, writer = await asyncio.open_connection("127.0.0.1", standin.port)
            body = update(1).encode()
            head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: text/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            try:
                return await reader.read()
            finally:
                writer.close()

        answer = asyncio.run(exchange())
    assert answer.startswith(b"HTTP/1.1 200")
    assert answer.endswith(SUCCESS)
    assert b"connection: close" not in answer.lower()


def test_outage_and_restart_on_the_same_port() -> None:
    """While it is stopped nothing connects; afterwards members, counts and URL are those of before."""
    with running(Options(script=listed([None, Fault.FORBIDDEN]))) as standin:
        url = standin.url
        assert post(url, update(1)).status == 200
        standin.stop()
        standin.stop()
        with pytest.raises(aiohttp.ClientConnectorError):
            post(url, update(2))
        standin.start()
        standin.start()
        assert standin.url == url
        assert [post(url, update(client)).status for client in (2, 3)] == [403, 200]
        assert (standin.requests, set(standin.platform.state)) == (3, {1, 3})


def test_stopping_cuts_off_stalled_requests() -> None:
    """A stall does not hold up the end; its client sees the connection go."""
    seen: list[BaseException] = []

    def stalled(url: str) -> None:
        try:
            post(url, update(1))
        except aiohttp.ClientError as exc:
            seen.append(exc)

    with running(Options(every={Fault.STALL: 1})) as standin:
        threads = [threading.Thread(target=stalled, args=(standin.url,)) for _ in range(5)]
        for thread in threads:
            thread.start()
        until(lambda: standin.platform.entries == 5)
        started_s = time.monotonic()
    assert time.monotonic() - started_s < 1
    for thread in threads:
        thread.join()
    assert len(seen) == 5


def test_late_updates_outlive_an_outage() -> None:
    """What was to be applied late is applied while nobody listens."""
    with running(Options(script=listed([Fault.LATE]), late_s=0.1)) as standin:
        with pytest.raises(TimeoutError):
            post(standin.url, update(1), timeout_s=0.02)
        standin.stop()
        until(lambda: 1 in standin.platform.state)


def test_taken_port_is_an_error() -> None:
    """A second stand-in on the same port does not start."""
    with running() as standin, pytest.raises(OSError, match=r"\d"):
        asyncio.run(serve(Options(), standin.port))


def test_record_is_kept_while_it_runs(tmp_path: Path) -> None:
    """The file is there from the start, follows the state, is complete at the end, and leaves no other file."""
    path = tmp_path / "state.csv"
    with running(Options(record=path, record_every_s=0.02, state={9: ALL_ALLOWED})) as standin:
        until(path.exists)
        assert path.read_text() == f"{CSV_HEADER}\n9,true,true,true,true\n"
        post(standin.url, update(4, AllowSms=False))
        until(lambda: "4,false,,,\n" in path.read_text())
        post(standin.url, update(5, AllowSms=True))
    assert path.read_text() == standin.platform.csv()
    assert "5,true,,," in path.read_text()
    assert list(tmp_path.iterdir()) == [path]


def test_record_is_rewritten_no_more_often_than_asked(tmp_path: Path) -> None:
    """Between two replacements lies the given time, however much changes; the end does not wait for it."""
    path = tmp_path / "state.csv"
    with running(Options(record=path, record_every_s=60)) as standin:
        until(path.exists)
        post(standin.url, update(4))
        assert path.read_text() == f"{CSV_HEADER}\n"
    assert path.read_text() == standin.platform.csv()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_ends_with_a_signal_and_writes_the_record(tmp_path: Path, number: signal.Signals) -> None:
    """A signal ends `serve` in order: the record is complete and the platform comes back."""
    path = tmp_path / "state.csv"
    threads: list[threading.Thread] = []

    def use(url: str) -> None:
        post(url, update(4))
        os.kill(os.getpid(), number)

    def ready(url: str) -> None:
        threads.append(threading.Thread(target=use, args=(url,)))
        threads[0].start()

    platform = asyncio.run(serve(Options(), 0, record=path, ready=ready))
    threads[0].join()
    assert path.read_text() == platform.csv() == f"{CSV_HEADER}\n4,true,true,true,true\n"


def test_cancelled_serve_writes_the_record(tmp_path: Path) -> None:
    """A cancellation ends `serve` as a signal does."""
    path = tmp_path / "state.csv"

    async def main() -> None:
        started = asyncio.Event()
        task = asyncio.create_task(serve(Options(record=path), 0, ready=lambda url: started.set()))
        await started.wait()
        path.unlink(missing_ok=True)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert path.read_text() == f"{CSV_HEADER}\n"


def test_many_connections_at_once() -> None:
    """Every update of a crowd is applied once, and each client's answer is its own."""

    async def main() -> Endpoint:
        endpoint = Endpoint(Options(unknown_every=10, jitter_ms=2))
        async with (
            listening(endpoint, "127.0.0.1", 0) as port,
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=50)) as session,
        ):
            url = f"http://127.0.0.1:{port}"
            replies = await asyncio.gather(*(send(session, url, update(client)) for client in range(1, 501)))
        codes = [json.loads(reply.body)["ErrorCode"] for reply in replies]
        assert codes == [8 if client % 10 == 0 else 0 for client in range(1, 501)]
        return endpoint

    endpoint = asyncio.run(main())
    assert (endpoint.requests, len(endpoint.platform.state)) == (500, 450)
