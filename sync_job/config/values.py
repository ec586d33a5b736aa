"""What a single value of the configuration may be: addresses, names, times of day. Pure; each says what is wrong."""

import codecs
import difflib
import ipaddress
import re
from datetime import time
from encodings.aliases import aliases
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import available_timezones

from pydantic import AfterValidator, BeforeValidator, SecretStr, StrictInt, StrictStr

from sync_job.consent import deadlines, lists
from sync_job.consent.channels import FIELDS

PREFIX = "CONSENT_SYNC__"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 7230
VARIABLE_NAME = re.compile(r"[0-9A-Za-z_-]+")  # of a header whose value is in a variable
CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab: a line's end would begin another header
# What the program or the connection writes itself; a second one would contradict it.
_RESERVED = frozenset({
    *("accept", "authorization", "connection", "content-length", "content-type", "expect", "host", "keep-alive"),
    *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
})  # fmt: skip


KINDS = ("run", "part", "backfill", "apply", "undo", "init", "drain", "opt-out", "forget")
AS_OF = ("none", "mtime", "column:NAME", "filename:PATTERN", "flag")
_DIRECTIVES = {"Y": r"\d{4}", "m": r"\d{2}", "d": r"\d{2}", "H": r"\d{2}", "M": r"\d{2}", "S": r"\d{2}", "%": "%"}


def as_of(text: str) -> str:
    """Return *text*, which says how an export's age is known."""
    kind, _, rest = text.partition(":")
    if text in ("none", "mtime", "flag") or (kind == "column" and rest):
        return text
    if kind == "filename" and rest:
        name_pattern(rest)
        return text
    raise ValueError(f"{text!r} is none of {', '.join(map(repr, AS_OF))}")


def name_pattern(text: str) -> re.Pattern[str]:
    """Return the expression that finds a time, written as *text* says (%Y %m %d %H %M %S), in a file's name."""
    parts = re.split(r"%(.)", text)
    unknown = [part for part in parts[1::2] if part not in _DIRECTIVES]
    if unknown:
        raise ValueError(f"%{unknown[0]} in {text!r} is not known; known are %Y %m %d %H %M %S")
    if len(set(parts[1::2]) - {"%"}) != len([part for part in parts[1::2] if part != "%"]):
        raise ValueError(f"{text!r} has one of its % letters twice; nobody could tell which counts")
    if any("%" in part for part in parts[::2]):
        raise ValueError(f"{text!r} ends in a lone %; a literal one is %%")
    if not {"Y", "m", "d"} <= set(parts[1::2]):
        raise ValueError(f"{text!r} gives no date: it needs %Y, %m and %d")
    return re.compile("".join(_DIRECTIVES[p] if i % 2 else re.escape(p) for i, p in enumerate(parts)))


def complete(text: str) -> str:
    """Return *text*, which says how an export is known to be complete, or nothing."""
    how, _, detail = text.partition(":")
    if how == "stable":
        duration_s(detail)
    elif how == "marker":
        if not detail or "/" in detail or re.search(r"[{}]", detail.replace("{name}", "")):
            raise ValueError(f"{text!r}: a marker is the name of a file, as marker:_SUCCESS or marker:{{name}}.ok")
    elif text not in ("", "sidecar"):
        raise ValueError(f"{text!r} is none of '', 'stable:60s', 'marker:PATTERN', 'sidecar'")
    return text


def duration_s(text: str) -> float:
    """Return how many seconds a time is that is written as 90s, 30m or 2h.

    Raises:
        ValueError: when it is not.
    """
    found = re.fullmatch(r"([0-9]{1,6})(s|m|h)", text)
    if not found or not int(found[1]):
        raise ValueError(f"{text!r} is no length of time, as 90s, 30m or 2h")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def is_path(where: str) -> bool:
    """Return whether *where* names a place on this machine: it is neither an address nor `-` for standard input."""
    return where != "-" and not re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", where)


# Codecs that are no encodings of a text that one table could have from begin to end.
_NO_ENCODINGS = ("idna", "punycode", "unicode_escape", "raw_unicode_escape", "undefined", "utf_7")


def encoding(name: str) -> str:
    """Return the plain name of an encoding; "auto" is none, and stays."""
    found = name if name == "auto" else _encoding(name)
    if not found:
        known = sorted({one.replace("_", "-") for one in (*aliases, *aliases.values()) if _encoding(one)})
        near = difflib.get_close_matches(name.lower().replace("_", "-"), known, 1)
        raise ValueError(f"{name!r} is no encoding" + (f"; did you mean {near[0]!r}?" if near else ""))
    return found


def _encoding(name: str) -> str:
    try:
        found = codecs.lookup(name).name
        codecs.getincrementaldecoder(found)
        "a".encode(found)  # refused by codecs that are not of text
    except (LookupError, ValueError):
        return ""
    if found.replace("-", "_") in _NO_ENCODINGS:
        return ""
    return "utf-8" if found == "utf-8-sig" else found  # a byte order mark is left out always


DELIMITERS = (",", ";", "\t", "|")


def delimiter(text: str) -> str:
    """Return *text*, which sets fields apart, or says that what does so is found out."""
    if text not in ("auto", *DELIMITERS):
        raise ValueError(f"{text!r} sets no fields apart; it is 'auto', or one of {', '.join(map(repr, DELIMITERS))}")
    return text


def scope(text: str) -> str:
    """Return *text*, which names channels, or nothing."""
    if text:
        lists.scope(text)
    return text


def profile(text: str) -> str:
    """Return *text*, which names a statutory deadline that can be told here, or nothing."""
    deadlines.check(text)
    return text


def zone(name: str) -> str:
    """Return *name*, which names a time zone."""
    if name not in available_timezones():
        near = difflib.get_close_matches(name, available_timezones(), 1)
        raise ValueError(f"{name!r} is no time zone" + (f"; did you mean {near[0]!r}?" if near else ""))
    return name


def base_url(url: str) -> str:
    """Return *url* normalised: lower-case scheme and host, no default port, no slash at the end."""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as exc:
        raise ValueError(f"{url!r} has a port that is no number") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no http or https address")
    if parts.query or parts.fragment or parts.username:
        raise ValueError(f"{url!r} must be a plain address, without user, query or fragment")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    default = {"http": 80, "https": 443}[parts.scheme]
    return f"{parts.scheme}://{host}{f':{port}' if port and port != default else ''}{parts.path.rstrip('/')}"


def proxy(url: str) -> str:
    """Return the address of a proxy without a slash at the end; "" for none."""
    if not url:
        return ""
    parts = urlsplit(url)
    try:
        port = parts.port
    except ValueError as exc:
        raise ValueError("the port is no number") from exc
    if parts.username or parts.password:
        raise ValueError(
            f"credentials do not belong into the address: set {PREFIX}ENDPOINT__PROXY_AUTH to user:password"
        )
    if parts.scheme != "http" or not parts.hostname or not port:
        raise ValueError("not of the form http://host:port")
    if parts.path.rstrip("/") or parts.query or parts.fragment:
        raise ValueError("a proxy's address ends with its port")
    return url.rstrip("/")


def secret_address(secret: SecretStr | None) -> SecretStr | None:
    """Return *secret*, which is an http or https address, or none; what is wrong with it is said without it."""
    if secret is None:
        return None
    text = secret.get_secret_value().strip()
    try:
        parts = urlsplit(text)
        port = parts.port
    except ValueError as exc:
        raise ValueError("it is no address") from exc
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0 or re.search(r"[^!-~]", text):
        raise ValueError("it is no http or https address")
    if parts.fragment or parts.username:
        raise ValueError("it must be an address without user and fragment")
    return SecretStr(text)


def kinds(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return *names*, which are kinds of runs."""
    for name in names:
        if name not in KINDS:
            raise ValueError(f"{name!r} is no kind of run; kinds are {', '.join(KINDS)}")
    return names


def path_of_url(path: str) -> str:
    """Return *path*, which can stand behind a base URL."""
    if not re.fullmatch(r"/[!-~]*", path) or "?" in path or "#" in path:
        raise ValueError("not the path of an address: it begins with / and has no blank, query or fragment")
    return path


def headers(headers: dict[str, str]) -> dict[str, str]:
    """Return *headers*, none of which the program or the connection writes itself."""
    seen: set[str] = set()
    for name, value in headers.items():
        check_header(name, seen)
        if CONTROL.search(value):
            raise ValueError(f"the value of {name} has a line's end or another control character")
    return headers


def check_header(name: str, seen: set[str]) -> None:
    """Refuse a *name* that no header of ours can have, and add it to *seen*.

    Raises:
        ValueError: saying why.
    """
    if not _HEADER_NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name of a header")
    if name.lower() in _RESERVED:
        raise ValueError(f"{name} is written by consent-sync itself, or by the connection")
    if name.lower() in seen:
        raise ValueError(f"{name} is there twice; case does not tell headers apart")
    seen.add(name.lower())


def is_loopback(url: str) -> bool:
    """Return whether what goes to *url* does not leave this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def window(text: str) -> str:
    """Return *text*, which says from when until when: "HH:MM-HH:MM", or nothing."""
    if text:
        begin, _, end = text.partition("-")
        if clock_time(begin) == clock_time(end):
            raise ValueError(f"{text!r} begins when it ends")
    return text


def clock_time(text: str) -> time:
    """Return a time of day that is written "HH:MM" or "HH:MM:SS".

    Raises:
        ValueError: when it is not.
    """
    if not re.fullmatch(r"([01][0-9]|2[0-3])(:[0-5][0-9]){1,2}", text.strip()):
        raise ValueError(f"{text!r} is no time of day, as 06:00")
    return time.fromisoformat(text.strip())


def codes(value: object) -> object:
    """Return a list of ErrorCodes; in the environment it is a text with commas."""
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


def words(value: object) -> object:
    """Return a list of words; in the environment it is a text with commas."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def channels(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return *names*, which are of channels as requests have them."""
    for name in names:
        if name not in FIELDS:
            raise ValueError(f"{name!r} is no channel; channels are {', '.join(FIELDS)}")
    return names


def where(conditions: dict[str, object]) -> dict[str, object]:
    """Return *conditions*, each of a column's name and at least one value."""
    for name, value in conditions.items():
        if not name.strip() or value == ():
            raise ValueError(f"{name!r} needs a value, or a list of values")
    return conditions


Words = Annotated[tuple[str, ...], BeforeValidator(words)]
Meanings = dict[str, Words]  # tokens by what they say
Kinds = Annotated[tuple[str, ...], BeforeValidator(words), AfterValidator(kinds)]
SecretAddress = Annotated[
    SecretStr | None, BeforeValidator(lambda value: value or None), AfterValidator(secret_address)
]
Channels = Annotated[tuple[str, ...], BeforeValidator(words), AfterValidator(channels)]
_Value = StrictStr | StrictInt
Where = Annotated[dict[str, _Value | tuple[_Value, ...]], AfterValidator(where)]
Codes = Annotated[tuple[int, ...], BeforeValidator(codes)]
# In the environment "" is how a path is taken back.
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: value or None)]


def metrics_file(path: Path | None) -> Path | None:
    """Return *path*, which Prometheus' collector of text files would read, if it names one."""
    if path is not None and (path.suffix != ".prom" or path.is_dir()):
        raise ValueError(f"{path} is no text file of metrics: node_exporter reads files whose names end in .prom")
    return path


MetricsFile = Annotated[OptionalPath, AfterValidator(metrics_file)]
