"""The bytes of the endpoint's contract: requests as JSON, XML or form, and its answers as JSON or XML.

A channel without a statement is left out of the body, never sent as false: the platform keeps what it has. In XML
the order of the elements is part of the format, because the platform drops one out of order in silence and
answers success all the same.
"""

import json
import re
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Literal, NamedTuple
from urllib.parse import quote_plus
from xml.parsers import expat
from xml.sax.saxutils import escape

from sync_job.consent.channels import FIELDS, flags

PATH = "/api/client/ClientUpdateCommunication"
Format = Literal["json", "xml", "form"]

_XSI = "http://www.w3.org/2001/XMLSchema-instance"
_MODELS = "http://schemas.datacontract.org/2004/07/LCManagerPartner.Models"
_BASE = "http://schemas.datacontract.org/2004/07/LCManagerPartner.Implementation.Abstractions"
_HEADERS = {
    "json": ("application/json; charset=utf-8", "application/json"),
    "xml": ("application/xml; charset=utf-8", "application/xml"),
    "form": ("application/x-www-form-urlencoded", "application/json"),
}
# Each Sent byte has its flags in one of 81 ways: made once, looked up a million times.
_FLAGS = [
    {field: flag for field, flag in zip(FIELDS, flags(byte), strict=True) if flag is not None} for byte in range(256)
]

_TOKEN = re.compile(rb'(Token(?:": |=| xmlns="[^"]*">))-?[0-9]+')  # in JSON, in a form, in XML

Encode = Callable[[int, int], bytes]


class Sender(NamedTuple):
    """What every request says of who sends it; none is left out of the body."""

    operator: int | None = None
    token: int | None = None
    site_code: str | None = None

    def fields(self) -> dict[str, Any]:
        """Return the fields that are given, in the order of the contract."""
        named = {"Operator": self.operator, "Token": self.token, "SiteCode": self.site_code}
        return {name: value for name, value in named.items() if value is not None}


class Reply(NamedTuple):
    """A parsed answer of the platform."""

    code: int
    message: str


def headers(format_: Format) -> dict[str, str]:
    """Return the headers that go with bodies of this format."""
    content_type, accept = _HEADERS[format_]
    return {"Content-Type": content_type, "Accept": accept}


def encoder(format_: Format, sender: Sender) -> Encode:
    """Return the function from a client and a Sent byte to the body of its request."""
    return {"json": _json, "xml": _xml, "form": _form}[format_](sender)


def masked(body: bytes) -> bytes:
    """Return a request's body as people may see it: with its token, which is a secret, masked."""
    return _TOKEN.sub(rb"\1***", body)


def _json(sender: Sender) -> Encode:
    def dump(value: object) -> str:
        return json.dumps(value, ensure_ascii=False)

    middles = ["".join(f', "{field}": {dump(flag)}' for field, flag in named.items()) for named in _FLAGS]
    tail = "".join(f', "{name}": {dump(value)}' for name, value in sender.fields().items())

    def encode(client: int, sent: int) -> bytes:
        return f'{{"Client": {client}{middles[sent]}{tail}}}'.encode()

    return encode


def _form(sender: Sender) -> Encode:
    middles = ["".join(f"&{field}={str(flag).lower()}" for field, flag in named.items()) for named in _FLAGS]
    tail = "".join(f"&{name}={quote_plus(str(value))}" for name, value in sender.fields().items())

    def encode(client: int, sent: int) -> bytes:
        return f"Client={client}{middles[sent]}{tail}".encode()

    return encode


def _xml(sender: Sender) -> Encode:
    base = "".join(
        f'<{name} xmlns="{_BASE}">{_text(value)}</{name}>' for name, value in sorted(sender.fields().items())
    )
    head = f'<ClientUpdateCommunicationRequest xmlns:i="{_XSI}" xmlns="{_MODELS}">{base}'
    # Alphabetical, as the platform reads it: the flags, all of which begin with Allow, and then Client.
    middles = ["".join(f"<{field}>{_text(named[field])}</{field}>" for field in sorted(named)) for named in _FLAGS]

    def encode(client: int, sent: int) -> bytes:
        return f"{head}{middles[sent]}<Client>{client}</Client></ClientUpdateCommunicationRequest>".encode()

    return encode


_INTEGER = re.compile("[+-]?[0-9]{1,10}")
_UNSPEAKABLE = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return escape(_UNSPEAKABLE.sub("", str(value)))


@lru_cache(maxsize=256)  # nearly all answers are the same few bytes
def decode(body: bytes, content_type: str) -> Reply | None:
    """Return the platform's answer in *body*, or none when it is not one."""
    parse = _parse_xml if "xml" in content_type or body.lstrip()[:1] == b"<" else _parse_json
    return parse(body)


def _parse_json(body: bytes) -> Reply | None:
    try:
        found = json.loads(body.decode("utf-8-sig"))
    except (ValueError, RecursionError):
        return None
    if not isinstance(found, dict):
        return None
    named = {name.lower(): value for name, value in found.items()}
    code, message = named.get("errorcode"), named.get("message")
    if not isinstance(code, int) or isinstance(code, bool):
        return None
    return _reply(code, message if isinstance(message, str) else "")


def _reply(code: int, message: str) -> Reply | None:
    """Return the answer as it can be kept: the platform's code is 32 bits wide, and half a surrogate is no text."""
    if not -(2**31) <= code < 2**31:
        return None
    return Reply(code, message.encode("utf-8", "replace").decode())


class _DoctypeError(Exception):
    """A document type has no place in an answer: entities are how XML attacks its readers."""


def _parse_xml(body: bytes) -> Reply | None:
    parser = expat.ParserCreate(namespace_separator=" ")
    path: list[str] = []
    texts: dict[str, str] = {}

    def start(name: str, _: object) -> None:
        path.append(name.rpartition(" ")[2])
        if len(path) == 2:
            texts.setdefault(path[1], "")

    def text(part: str) -> None:
        if len(path) == 2:
            texts[path[1]] += part

    def refuse(*_: object) -> None:
        raise _DoctypeError

    parser.StartElementHandler = start
    parser.EndElementHandler = lambda _: path.pop()
    parser.CharacterDataHandler = text
    parser.StartDoctypeDeclHandler = refuse
    try:
        parser.Parse(body, True)
    except (expat.ExpatError, _DoctypeError, ValueError, LookupError):
        return None
    try:
        code = texts["ErrorCode"].strip()
        # int() alone takes underscores and the digits of every script, and a zero among them would be a delivery.
        return _reply(int(code), texts.get("Message", "")) if _INTEGER.fullmatch(code) else None
    except (KeyError, ValueError):
        return None
