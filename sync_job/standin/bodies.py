"""Which request bodies bind, and what they then state.

Each of the five request types is read as the platform's own reader does. Where its leniency is not known the
stand-in is strict, so that a sender that gets on with the stand-in gets on with the platform. Members that the
contract does not name are passed over. A body without `Client` binds, to client 0: the platform's member is a plain
integer that nothing requires. No member has that id, so the answer is a refusal.
"""

import json
import re
from collections.abc import Callable
from urllib.parse import parse_qsl
from xml.parsers import expat

from sync_job.standin.contract import (
    ABSTRACTIONS,
    FLAG_NAMES,
    FORM_TYPE,
    INSTANCE,
    JSON_TYPES,
    KINDS,
    MODELS,
    XML_TYPES,
    BindError,
    Flags,
    Kind,
    MediaTypeError,
    Update,
)

_Value = bool | int | str | None

_BY_LOWER = {name.lower(): name for name in KINDS}
_INT_BITS = {Kind.SHORT: 16, Kind.INT: 32}

# DataContractSerializer reads members in this order only: the base class first, then the rest, each alphabetically.
_XML_NAMES = (
    *((ABSTRACTIONS, name) for name in ("Operator", "SiteCode", "Token")),
    *((MODELS, name) for name in ("AllowEmail", "AllowEmailOnlineCheque", "AllowPush", "AllowSms", "Client")),
)
_XML_RANKS = {f"{namespace} {name}": rank for rank, (namespace, name) in enumerate(_XML_NAMES)}
_XML_ROOT = f"{MODELS} ClientUpdateCommunicationRequest"
_XML_NIL = f"{INSTANCE} nil"
_XML_SPACE = " \t\r\n"
_DECIMAL = re.compile(r"[+-]?[0-9]{1,20}")


def parse(content_type: str, body: bytes) -> Update:
    """Return the update that *body* states; *content_type* is the bare type, in lower case.

    Raises:
        MediaTypeError: when the platform reads no such type.
        BindError: when the body is malformed, or a member is of a wrong type or out of range.
    """
    reader = _READERS.get(content_type)
    if reader is None:
        raise MediaTypeError(content_type)
    values = reader(body)
    return Update(
        client=_integer(values, "Client"),
        flags=Flags(*(_flag(values, name) for name in FLAG_NAMES)),
        operator=_integer(values, "Operator"),
        token=_integer(values, "Token"),
        site_code=_text(values, "SiteCode"),
    )


def _flag(values: dict[str, _Value], name: str) -> bool | None:
    value = values.get(name)
    if value is None or isinstance(value, bool):
        return value
    raise BindError(f"{name} is not {Kind.FLAG.value}")


def _integer(values: dict[str, _Value], name: str) -> int:
    value = values.get(name, 0)
    kind = KINDS[name]
    bound = 1 << (_INT_BITS[kind] - 1)
    if isinstance(value, int) and not isinstance(value, bool) and -bound <= value < bound:
        return value
    raise BindError(f"{name} is not {kind.value}")


def _text(values: dict[str, _Value], name: str) -> str | None:
    value = values.get(name)
    if value is None or isinstance(value, str):
        return value
    raise BindError(f"{name} is not {Kind.TEXT.value}")


def _read_json(body: bytes) -> dict[str, _Value]:
    """Return the members of an object, matched without case; the last of two equal names counts."""
    try:
        # Pairs, not a dict: names that differ in case alone are the same member here.
        members = json.loads(body.decode("utf-8-sig"), object_pairs_hook=tuple)
    except (ValueError, RecursionError) as exc:
        raise BindError("not JSON") from exc
    if not isinstance(members, tuple):
        raise BindError("not an object")
    return {_BY_LOWER[name.lower()]: value for name, value in members if name.lower() in _BY_LOWER}


def _read_form(body: bytes) -> dict[str, _Value]:
    """Return the fields of a form, matched without case; the first of two equal names counts."""
    try:
        pairs = parse_qsl(body.decode(), keep_blank_values=True, errors="strict", max_num_fields=1000)
    except ValueError as exc:
        raise BindError("not a form") from exc
    values: dict[str, _Value] = {}
    for written, text in pairs:
        name = _BY_LOWER.get(written.lower())
        if name is not None and name not in values:
            values[name] = _form_value(KINDS[name], text)
    return values


def _form_value(kind: Kind, text: str) -> _Value:
    stripped = text.strip()
    if not stripped:
        return None
    if kind is Kind.TEXT:
        return text
    if kind is Kind.FLAG:
        return {"true": True, "false": False}.get(stripped.lower(), stripped)
    return _decimal(stripped)


def _decimal(text: str) -> int:
    if not _DECIMAL.fullmatch(text):
        raise BindError("not a decimal number")
    return int(text)


def _read_xml(body: bytes) -> dict[str, _Value]:
    """Return the members that stand in their order and namespace; the others are dropped in silence."""
    reader = _XmlReader()
    parser = expat.ParserCreate(namespace_separator=" ")
    parser.StartDoctypeDeclHandler = reader.doctype
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        parser.Parse(body, True)
    except BindError:
        raise
    except (expat.ExpatError, ValueError, LookupError) as exc:
        raise BindError("not XML") from exc
    return reader.values


class _XmlReader:
    """Expat's events, taken as DataContractSerializer takes them."""

    def __init__(self) -> None:
        self.values: dict[str, _Value] = {}
        self._depth = 0
        self._next_rank = 0
        self._member: str | None = None
        self._nil = False
        self._parts: list[str] = []

    def doctype(self, *_declared: object) -> None:
        raise BindError("a DOCTYPE is refused")

    def start(self, name: str, attributes: dict[str, str]) -> None:
        self._depth += 1
        nil = attributes.get(_XML_NIL, "").strip(_XML_SPACE) in {"true", "1"}
        if self._depth == 1 and (name != _XML_ROOT or nil):
            raise BindError("the root is not the request's")
        if self._depth == 2:
            rank = _XML_RANKS.get(name, -1)
            if rank >= self._next_rank:
                self._next_rank = rank + 1
                self._member, self._nil, self._parts = _XML_NAMES[rank][1], nil, []
        elif self._depth > 2 and self._member is not None:
            raise BindError(f"{self._member} holds an element")

    def characters(self, text: str) -> None:
        if self._member is not None:
            self._parts.append(text)
        elif self._depth == 1 and text.strip(_XML_SPACE):
            raise BindError("text between the members")

    def end(self, _name: str) -> None:
        self._depth -= 1
        if self._depth == 1 and self._member is not None:
            text = "".join(self._parts)
            if self._nil and text.strip(_XML_SPACE):
                raise BindError(f"{self._member} is nil and holds text")
            self.values[self._member] = None if self._nil else _xml_value(KINDS[self._member], text)
            self._member = None


def _xml_value(kind: Kind, text: str) -> _Value:
    if kind is Kind.TEXT:
        return text
    stripped = text.strip(_XML_SPACE)
    if kind is Kind.FLAG:
        return {"true": True, "1": True, "false": False, "0": False}.get(stripped, stripped)
    return _decimal(stripped)


_READERS: dict[str, Callable[[bytes], dict[str, _Value]]] = {
    **dict.fromkeys(JSON_TYPES, _read_json),
    **dict.fromkeys(XML_TYPES, _read_xml),
    FORM_TYPE: _read_form,
}
