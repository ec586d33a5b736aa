"""The bytes of the contract: requests as the platform reads them, and answers, however they come."""

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sync_job.consent.channels import ALLOWED, DENIED, NOTHING, flags, pack, parse_letters
from sync_job.delivery import wire
from sync_job.delivery.wire import Format, Reply, Sender, decode, encoder
from sync_job.standin import answers, bodies
from sync_job.standin.contract import Answer, Flags, Update

FORMATS: tuple[Format, ...] = ("json", "xml", "form")
SENT = [pack(values) for values in itertools.product((NOTHING, DENIED, ALLOWED), repeat=4)]
WHOLE = Sender(1, 1, "sample string 2")
NOBODY = Sender()

XML_HEAD = (
    b'<ClientUpdateCommunicationRequest xmlns:i="http://www.w3.org/2001/XMLSchema-instance" '
    b'xmlns="http://schemas.datacontract.org/2004/07/LCManagerPartner.Models">'
)
ABSTRACTIONS = b'xmlns="http://schemas.datacontract.org/2004/07/LCManagerPartner.Implementation.Abstractions"'
XML_TAIL = b"</ClientUpdateCommunicationRequest>"


def read(format_: Format, body: bytes) -> Update:
    """Return what the stand-in, which shares no code with the sender, reads in *body*."""
    content_type, _, _ = wire.headers(format_)["Content-Type"].partition(";")
    return bodies.parse(content_type, body)


def test_json_is_the_samples_bytes() -> None:
    """The help page's own sample request, with nothing more and in the same order."""
    sample = (
        b'{"Client": 1, "AllowSms": true, "AllowEmail": true, "AllowPush": true, "AllowEmailOnlineCheque": true, '
        b'"Operator": 1, "Token": 1, "SiteCode": "sample string 2"}'
    )
    assert encoder("json", WHOLE)(1, parse_letters("TTTT")) == sample


def test_xml_is_the_samples_bytes() -> None:
    """Namespaces and order as the help page has them: an element out of order is dropped in silence."""
    sample = (
        XML_HEAD
        + b"<Operator " + ABSTRACTIONS + b">1</Operator>"
        b"<SiteCode " + ABSTRACTIONS + b">sample string 2</SiteCode>"
        b"<Token " + ABSTRACTIONS + b">1</Token>"
        b"<AllowEmail>true</AllowEmail><AllowEmailOnlineCheque>true</AllowEmailOnlineCheque>"
        b"<AllowPush>true</AllowPush><AllowSms>true</AllowSms><Client>1</Client>" + XML_TAIL
    )  # fmt: skip
    assert encoder("xml", WHOLE)(1, parse_letters("TTTT")) == sample


def test_form_is_fields_in_the_order_of_the_contract() -> None:
    """Flags are true and false, the only words that the platform's form reader takes."""
    assert encoder("form", WHOLE)(1, parse_letters("TFTF")) == (
        b"Client=1&AllowSms=true&AllowEmail=false&AllowPush=true&AllowEmailOnlineCheque=false"
        b"&Operator=1&Token=1&SiteCode=sample+string+2"
    )


@pytest.mark.parametrize(
    ("format_", "letters", "body"),
    [
        ("json", "F---", b'{"Client": 2147483647, "AllowSms": false}'),
        ("json", "-T-F", b'{"Client": 2147483647, "AllowEmail": true, "AllowEmailOnlineCheque": false}'),
        ("json", "----", b'{"Client": 2147483647}'),
        ("xml", "F---", XML_HEAD + b"<AllowSms>false</AllowSms><Client>2147483647</Client>" + XML_TAIL),
        (
            "xml",
            "-T-F",
            XML_HEAD
            + b"<AllowEmail>true</AllowEmail><AllowEmailOnlineCheque>false</AllowEmailOnlineCheque>"
            + b"<Client>2147483647</Client>"
            + XML_TAIL,
        ),
        ("xml", "----", XML_HEAD + b"<Client>2147483647</Client>" + XML_TAIL),
        ("form", "F---", b"Client=2147483647&AllowSms=false"),
        ("form", "-T-F", b"Client=2147483647&AllowEmail=true&AllowEmailOnlineCheque=false"),
        ("form", "----", b"Client=2147483647"),
    ],
)
def test_what_is_not_stated_is_left_out(format_: Format, letters: str, body: bytes) -> None:
    """Neither a channel without a statement nor a sender's field that is not given leaves a trace."""
    assert encoder(format_, NOBODY)(2147483647, parse_letters(letters)) == body


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(
    "sender", [Sender(operator=3), Sender(token=-4), Sender(site_code="x"), Sender(0, 0, ""), Sender(3, None, "x")]
)
def test_sender_says_what_is_given_and_no_more(format_: Format, sender: Sender) -> None:
    """Zero and the empty text are given; only none is left out."""
    body = encoder(format_, sender)(5, parse_letters("FFFF"))
    for name, value in zip((b"Operator", b"Token", b"SiteCode"), sender, strict=True):
        assert (name in body) == (value is not None)
    update = read(format_, body)
    assert (update.operator, update.token) == (sender.operator or 0, sender.token or 0)
    assert (update.site_code or "") == (sender.site_code or "")


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("sender", [NOBODY, Sender(2, 12345, "сайт")], ids=["nobody", "sender"])
def test_every_sent_byte_is_read_as_meant(format_: Format, sender: Sender) -> None:
    """All 81 of them: the stand-in's own parser finds exactly the flags that the byte holds."""
    encode = encoder(format_, sender)
    assert len(set(SENT)) == 81
    for sent in SENT:
        update = read(format_, encode(77, sent))
        assert (update.client, update.flags) == (77, Flags(*flags(sent))), sent
        assert (update.operator, update.token, update.site_code) == (sender.operator or 0, sender.token or 0, sender[2])


AWKWARD = ['<&>"\'', "a&b=c+d%20;", "]]>", "\\n\"}{", "Код №1 🙂", "a/b?c#d", " padded "]  # fmt: skip


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize("code", AWKWARD)
def test_site_code_comes_through_every_format(format_: Format, code: str) -> None:
    """What means something to a format is escaped in it."""
    update = read(format_, encoder(format_, Sender(1, 2, code))(9, parse_letters("TFTF")))
    assert update == Update(9, Flags(True, False, True, False), 1, 2, code)


@pytest.mark.parametrize("format_", FORMATS)
@given(code=st.text(st.characters(exclude_categories=["Cs"])), client=st.integers(1, 2**31 - 1))
def test_no_site_code_changes_another_field(format_: Format, code: str, client: int) -> None:
    """Whatever is in it, client and flags are read as meant."""
    update = read(format_, encoder(format_, Sender(site_code=code))(client, parse_letters("F-T-")))
    assert (update.client, update.flags) == (client, Flags(False, None, True, None))


def test_characters_that_xml_cannot_hold_are_dropped() -> None:
    """The body stays XML, whatever a configuration holds."""
    body = encoder("xml", Sender(site_code="a\x00\x08b\ufffec"))(9, parse_letters("F---"))
    assert read("xml", body).site_code == "abc"


def test_headers_name_the_body_and_ask_for_an_answer_that_is_read() -> None:
    """JSON and XML are answered in kind; a form cannot be, and asks for JSON."""
    assert [wire.headers(format_) for format_ in FORMATS] == [
        {"Content-Type": "application/json; charset=utf-8", "Accept": "application/json"},
        {"Content-Type": "application/xml; charset=utf-8", "Accept": "application/xml"},
        {"Content-Type": "application/x-www-form-urlencoded", "Accept": "application/json"},
    ]


@pytest.mark.parametrize("answer", [Answer(0), Answer(8, "Участник <не> & найден"), Answer(-2147483648, '"')])
@pytest.mark.parametrize("media", ["application/json", "text/json", "application/xml", "text/xml"])
def test_answers_of_the_platform_are_read(answer: Answer, media: str) -> None:
    """Code and message in each of the four types."""
    assert decode(answers.write(answer, media), media) == Reply(*answer)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"ErrorCode": 3, "Message": "no"}', "application/json"),
        (b'{"errorcode":3,"MESSAGE":"no"}', "application/json"),
        (b'\xef\xbb\xbf{"ErrorCode":3,"Message":"no"}', "application/json"),
        (b'  {"ErrorCode":3,"Message":"no","Id":null}\r\n', "text/plain"),
        (b'{"ErrorCode":3,"Message":"no"}', "application/octet-stream"),
        (b"<R><ErrorCode>3</ErrorCode><Message>no</Message></R>", "text/plain"),
        (b"\xef\xbb\xbf<R><ErrorCode> 3 </ErrorCode><Message>no</Message></R>", "text/xml"),
        (b'<?xml version="1.0" encoding="utf-8"?>\n<R><Message>n<!-- -->o</Message><ErrorCode>3</ErrorCode></R>', "x"),
        ("<R><ErrorCode>3</ErrorCode><Message>no</Message></R>".encode("utf-16"), "application/xml"),
    ],
)
def test_answer_may_vary_where_meaning_does_not(body: bytes, content_type: str) -> None:
    """A byte order mark, the case of names, a vague type, a declaration: the answer is the same."""
    assert decode(body, content_type) == Reply(3, "no")


@pytest.mark.parametrize(
    "body",
    [b'{"ErrorCode":0}', b'{"ErrorCode":0,"Message":null}', b'{"ErrorCode":0,"Message":7}',
     b"<R><ErrorCode>0</ErrorCode></R>", b"<R><ErrorCode>0</ErrorCode><Message/></R>"],
)  # fmt: skip
def test_answer_needs_no_message(body: bytes) -> None:
    """The code alone says what became of the request."""
    assert decode(body, "") == Reply(0, "")


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"0",
        b"null",
        b"true",
        b"[]",
        b'[{"ErrorCode":0}]',
        b"{}",
        b'{"Message":""}',
        b'{"ErrorCode":null}',
        b'{"ErrorCode":false}',
        b'{"ErrorCode":true}',
        b'{"ErrorCode":"0"}',
        b'{"ErrorCode":0.0}',
        b'{"ErrorCode":[0]}',
        b'{"ErrorCode":NaN}',
        b'{"ErrorCode":4294967296}',
        b'{"ErrorCode":' + b"9" * 5000 + b"}",
        b'{"Result":{"ErrorCode":0}}',
        b'{"ErrorCode":0',
        b'{"ErrorCode":0}{"ErrorCode":0}',
        b'{"ErrorCode":0,"Message":"\xff"}',
        b"[" * 100_000,
        b'{"ErrorCode":0}'.decode().encode("utf-16"),
        b"<R/>",
        b"<R><Message>x</Message></R>",
        b"<R><ErrorCode/></R>",
        b"<R><ErrorCode>zero</ErrorCode></R>",
        b"<R><ErrorCode>0.0</ErrorCode></R>",
        b"<R><ErrorCode>0_0</ErrorCode></R>",
        "<R><ErrorCode>٠</ErrorCode></R>".encode(),
        b"<R><ErrorCode>4294967296</ErrorCode></R>",
        b"<R><ErrorCode>" + b"9" * 5000 + b"</ErrorCode></R>",
        b"<R><Inner><ErrorCode>0</ErrorCode></Inner></R>",
        b"<ErrorCode>0</ErrorCode>",
        b"<R><ErrorCode>0</ErrorCode>",
        b"<R><ErrorCode>0</ErrorCode></R><R/>",
        b'<?xml version="1.0" encoding="no-such"?><R><ErrorCode>0</ErrorCode></R>',
        b"<a>" * 100_000,
        b"<!DOCTYPE html><html><head><title>0</title></head><body><p>Login</body></html>",
        b"<html><body>Service Unavailable</body></html>",
        b'<!DOCTYPE R SYSTEM "http://127.0.0.1:9/"><R><ErrorCode>0</ErrorCode></R>',
        b'<!DOCTYPE R [<!ENTITY z "0">]><R><ErrorCode>&z;</ErrorCode></R>',
        b'<!DOCTYPE R [<!ENTITY a "0000000000"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;&a;&a;">'
        b'<!ENTITY c "&b;&b;&b;&b;&b;&b;&b;&b;&b;&b;">]><R><ErrorCode>&c;</ErrorCode></R>',
        b'<!DOCTYPE R [<!ENTITY f SYSTEM "file:///etc/hostname">]><R><ErrorCode>0</ErrorCode><Message>&f;</Message></R>',
    ],
    ids=lambda body: repr(body[:60]),
)
@pytest.mark.parametrize("content_type", ["application/json", "application/xml", "text/html"])
def test_what_is_no_answer_is_none(body: bytes, content_type: str) -> None:
    """Pages, halves, wrong types and attacks are not the platform's answer, whatever they call themselves."""
    assert decode(body, content_type) is None


def test_message_can_be_kept_as_text() -> None:
    """Half a surrogate pair, which JSON can spell and no file can hold, is replaced."""
    reply = decode(b'{"ErrorCode":1,"Message":"a\\ud800b"}', "application/json")
    assert reply == Reply(1, "a?b")


TYPES = st.sampled_from(["application/json", "application/xml", "text/html", ""])


@given(
    st.binary() | st.builds(lambda prefix, rest: prefix + rest, st.sampled_from([b"<", b"{", b"<?xml "]), st.binary()),
    TYPES,
)
def test_no_bytes_raise(body: bytes, content_type: str) -> None:
    """Whatever comes back, there is an answer or none."""
    reply = decode(body, content_type)
    assert reply is None or isinstance(reply, Reply)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.just("ErrorCode"), inner, max_size=3),
    max_leaves=6,
)


@given(JSON)
def test_only_an_integer_code_is_an_answer(value: object) -> None:
    """Of all JSON, only an object with an ErrorCode of 32 bits is one, and its message can be encoded."""
    reply = decode(json.dumps(value).encode(), "application/json")
    if reply is not None:
        assert isinstance(value, dict)
        codes = [found for name, found in value.items() if name.lower() == "errorcode"]
        assert reply.code in codes
        assert -(2**31) <= reply.code < 2**31
        reply.message.encode()
