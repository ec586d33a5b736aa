"""The endpoint's contract: its types, its members, and what a request and an answer hold.

How bodies are read is left to `bodies.py`, how answers are written to `answers.py`, and what becomes of an update to
`platform.py`.
"""

from enum import Enum
from typing import NamedTuple

MODELS = "http://schemas.datacontract.org/2004/07/LCManagerPartner.Models"
ABSTRACTIONS = "http://schemas.datacontract.org/2004/07/LCManagerPartner.Implementation.Abstractions"
INSTANCE = "http://www.w3.org/2001/XMLSchema-instance"

JSON_TYPES = ("application/json", "text/json")
XML_TYPES = ("application/xml", "text/xml")
FORM_TYPE = "application/x-www-form-urlencoded"


class Flags(NamedTuple):
    """What is stated of each channel; none where nothing is."""

    sms: bool | None = None
    email: bool | None = None
    push: bool | None = None
    email_online_cheque: bool | None = None


class Update(NamedTuple):
    """A request that did bind; what the body left out is at the platform's default."""

    client: int = 0
    flags: Flags = Flags()
    operator: int = 0
    token: int = 0
    site_code: str | None = None


class Answer(NamedTuple):
    """What the platform's procedure answers: 0 is success, any other code a refusal."""

    error_code: int
    message: str = ""


class BindError(ValueError):
    """The body is no request of this contract: the platform answers 400 and no body."""


class MediaTypeError(ValueError):
    """The request's content type is none that the platform reads: it answers 415."""


class Kind(Enum):
    """What a member of the request holds."""

    FLAG = "a nullable boolean"
    SHORT = "a 16-bit integer"
    INT = "a 32-bit integer"
    TEXT = "a nullable string"


FLAG_NAMES = ("AllowSms", "AllowEmail", "AllowPush", "AllowEmailOnlineCheque")
KINDS = {
    "Client": Kind.INT,
    **dict.fromkeys(FLAG_NAMES, Kind.FLAG),
    "Operator": Kind.SHORT,
    "Token": Kind.INT,
    "SiteCode": Kind.TEXT,
}
