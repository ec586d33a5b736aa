"""Typed, frozen settings: flags over environment over file over defaults; secrets from the environment alone.

One section a consumer, which gets its own section and no more. `docs/configuration.md` describes every key.
"""

import difflib
import ipaddress
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import time
from pathlib import Path
from typing import Annotated, Any, Literal, get_args
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sync_job.consent.channels import FIELDS
from sync_job.errors import ConfigError

PREFIX = "CONSENT_SYNC__"
_PATHS = (
    ("export", "path"),
    ("endpoint", "tls", "ca"),
    ("endpoint", "tls", "certificate"),
    ("endpoint", "tls", "key"),
    ("state", "path"),
    ("state", "keys"),
    ("report", "path"),
)
_SECRETS = (
    ("endpoint", "token"),
    ("endpoint", "proxy_auth"),
    ("endpoint", "auth", "bearer"),
    ("endpoint", "auth", "password"),
    ("endpoint", "tls", "key_password"),
)
_SECRET_HEADERS = f"{PREFIX}ENDPOINT__SECRET_HEADERS"
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 7230
_VARIABLE_NAME = re.compile(r"[0-9A-Za-z_-]+")  # of a header whose value is in a variable
_CONTROL = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")  # all but the tab: a line's end would begin another header
# What the program or the connection writes itself; a second one would contradict it.
_RESERVED = frozenset({
    *("accept", "authorization", "connection", "content-length", "content-type", "expect", "host", "keep-alive"),
    *("proxy-authorization", "proxy-connection", "te", "trailer", "transfer-encoding", "upgrade"),
})  # fmt: skip


def _zone(name: str) -> str:
    if name not in available_timezones():
        near = difflib.get_close_matches(name, available_timezones(), 1)
        raise ValueError(f"{name!r} is no time zone" + (f"; did you mean {near[0]!r}?" if near else ""))
    return name


def _base_url(url: str) -> str:
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


def _proxy(url: str) -> str:
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


def _path_of_url(path: str) -> str:
    if not re.fullmatch(r"/[!-~]*", path) or "?" in path or "#" in path:
        raise ValueError("not the path of an address: it begins with / and has no blank, query or fragment")
    return path


def _headers(headers: dict[str, str]) -> dict[str, str]:
    seen: set[str] = set()
    for name, value in headers.items():
        _check_header(name, seen)
        if _CONTROL.search(value):
            raise ValueError(f"the value of {name} has a line's end or another control character")
    return headers


def _check_header(name: str, seen: set[str]) -> None:
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


def _loopback(url: str) -> bool:
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _window(text: str) -> str:
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


def _codes(value: object) -> object:
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


Codes = Annotated[tuple[int, ...], BeforeValidator(_codes)]
# In the environment "" is how a path is taken back.
OptionalPath = Annotated[Path | None, BeforeValidator(lambda value: value or None)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RunSettings(_Section):
    """When and where a run takes place."""

    timezone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", description="the zone of times without one: in exports, and in what people read"
    )

    @property
    def zone(self) -> ZoneInfo:
        """The time zone itself."""
        return ZoneInfo(self.timezone)


class ColumnSettings(_Section):
    """This export's name of each column; "" where it has none."""

    Client: str = Field("Client", min_length=1, description="the column with the client's id on the platform")
    AllowSms: str = Field("AllowSms", description='the consent to SMS; "" where the export has none')
    AllowEmail: str = Field("AllowEmail", description='the consent to e-mail; "" where the export has none')
    AllowPush: str = Field("AllowPush", description='the consent to push messages; "" where the export has none')
    AllowEmailOnlineCheque: str = Field(
        "AllowEmailOnlineCheque", description='the consent to receipts by e-mail; "" where the export has none'
    )
    consent_changed_at: str = Field(
        "", description='the column with the time of the consent (not of the row); "" where the export has none'
    )

    @property
    def channels(self) -> tuple[str, ...]:
        """This export's name of each channel's column, in the order of CHANNELS; "" for none."""
        return tuple(getattr(self, field) for field in FIELDS)


class ExportSettings(_Section):
    """Where the export is and how it is to be read."""

    path: str = Field("", description="a file, a glob, or a folder; or given on the command line")
    format: Literal["auto", "csv", "parquet"] = Field("auto", description="auto: by the file's content")
    kind: Literal["full", "delta"] = Field("full", description="full: says who is absent; delta: changed clients only")
    as_of: Literal["none"] = Field(
        description="how the export's age is known; must be said. none: it is not, and reports say so"
    )
    columns: ColumnSettings = Field(default_factory=lambda: ColumnSettings.model_validate({}))


class AuthSettings(_Section):
    """How a request is authorised."""

    kind: Literal["none", "bearer", "password"] = Field(
        "none",
        description="bearer: a fixed token in the Authorization header; password: tokens that a login gives",
    )
    bearer: SecretStr | None = Field(None, description="the bearer token; from the environment or a file only")
    login_path: Annotated[str, AfterValidator(_path_of_url)] = Field(
        "/ManagerLogin", description="where tokens are asked for, behind base_url"
    )
    username: str = Field("", description="who logs in")
    password: SecretStr | None = Field(None, description="of that user; from the environment or a file only")


class TlsSettings(_Section):
    """Whom to trust over https, and who we are."""

    ca: OptionalPath = Field(None, description="certificates in PEM that are trusted instead of the system's")
    certificate: OptionalPath = Field(None, description="our certificate and its chain in PEM")
    key: OptionalPath = Field(None, description="its key in PEM, unless the certificate's file has it")
    key_password: SecretStr | None = Field(
        None, description="what the key is encrypted with; from the environment or a file only"
    )


class SecretHeader(_Section):
    """A header whose value is a secret."""

    name: str
    value: SecretStr


class EndpointSettings(_Section):
    """The platform that consent is pushed to."""

    base_url: Annotated[str, AfterValidator(_base_url)] = Field(
        description="the address before /api/client/ClientUpdateCommunication; must be said"
    )
    format: Literal["json", "xml", "form"] = Field("json", description="the format of request bodies")
    operator: int | None = Field(
        None, ge=0, le=32767, description="the loyalty programme's operator; left out if not given"
    )
    site_code: str | None = Field(
        None, description="the code of the site that makes the request; left out if not given"
    )
    restate: Literal["denials", "never"] = Field(
        "denials",
        description="denials: each request repeats the client's other denials, so that a drifted platform heals",
    )
    retry_codes: Codes = Field((), description="ErrorCodes that mean: try again")
    not_found_codes: Codes = Field((), description="ErrorCodes that mean: no such client")
    token: Annotated[
        SecretStr | None, Field(description="the body's Token, an integer; from the environment or a file only")
    ] = None
    allow_plain_http: bool = Field(
        False, description="whether consent, tokens and passwords may cross a network unencrypted"
    )
    headers: Annotated[dict[str, str], AfterValidator(_headers)] = Field(
        {}, description="further headers of each request, which are no secrets"
    )
    secret_headers: tuple[SecretHeader, ...] = Field(
        (), description="names of headers whose values come from the environment or files only"
    )
    proxy: Annotated[str, AfterValidator(_proxy)] = Field(
        "", description='the proxy that requests go through, as http://host:port; "" for none'
    )
    proxy_auth: Annotated[
        SecretStr | None, Field(description="user:password for the proxy; from the environment or a file only")
    ] = None
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings.model_validate({}))
    tls: TlsSettings = Field(default_factory=lambda: TlsSettings.model_validate({}))

    @property
    def in_the_clear(self) -> bool:
        """Whether requests leave this machine unencrypted: over http, to another one or through its proxy."""
        if self.base_url.startswith("https:"):
            return False
        return not (_loopback(self.base_url) and (not self.proxy or _loopback(self.proxy)))

    @property
    def target(self) -> str:
        """What state is bound to: the platform and the operator on it."""
        return f"{self.base_url} operator {self.operator or 0}"


class DeliverySettings(_Section):
    """How hard a run may push, and when."""

    max_concurrency: int = Field(
        64, ge=1, le=1000, description="requests in flight at once, at most; how many do well, the run finds out"
    )
    max_rps: float = Field(0, ge=0, description="requests a second, at most; 0 for no ceiling")
    attempts: int = Field(
        5, ge=1, le=100, description="requests a row, at most; those answered 429 or 503 do not count"
    )
    timeout_s: float = Field(30, gt=0, le=600, description="seconds that one request may take")
    linger_s: float = Field(
        120, ge=0, le=86400, description="seconds after which a request that timed out is surely not applied any more"
    )
    max_outage_s: float = Field(
        600,
        gt=0,
        description="seconds without any good answer, after which the run stops and leaves the rest to the next",
    )
    drain_s: float = Field(
        30, ge=0, le=600, description="seconds that requests in flight may still take when a run is asked to end"
    )
    canary: int = Field(
        20, ge=0, le=1000, description="first rows that go one at a time, and stop the run if all are refused alike"
    )
    window: Annotated[str, AfterValidator(_window)] = Field(
        "", description='when an export may be sent, as "01:00-06:00" in [run] timezone; "" for always'
    )


class StateSettings(_Section):
    """Where what is known and owed is kept."""

    path: Path = Field(Path("state"), description="the state folder; one for each target")
    keys: Path = Field(Path("keys"), description="the folder of keys; outside the state folder")


class ReportSettings(_Section):
    """What a run leaves for people."""

    path: Path = Field(Path("reports"), description="the folder with one folder a run")
    results: Literal["csv", "parquet"] = Field(
        "csv", description="the format of the file with a row for each planned client"
    )
    tolerate: float = Field(
        0.001,
        ge=0,
        le=1,
        description="the share of an export's rows that may stay undone, if known, before a run ends in 1",
    )


class Settings(BaseSettings):
    """All settings of one target."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    run: RunSettings = Field(default_factory=lambda: RunSettings.model_validate({}))
    export: ExportSettings
    endpoint: EndpointSettings
    delivery: DeliverySettings = Field(default_factory=lambda: DeliverySettings.model_validate({}))
    state: StateSettings = Field(default_factory=lambda: StateSettings.model_validate({}))
    report: ReportSettings = Field(default_factory=lambda: ReportSettings.model_validate({}))

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Return only what `load` passes in: it has put flags over environment over file itself."""
        return (init_settings,)


class _Environment(PydanticBaseSettingsSource):
    """Reads `CONSENT_SYNC__SECTION__KEY`, and `…_FILE` for secrets."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return nothing: the whole environment is read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in os.environ.items():
            if not name.upper().startswith(PREFIX) or name.upper().startswith(f"{_SECRET_HEADERS}__"):
                continue
            parts = name[len(PREFIX) :].lower().split("__")
            from_file = parts[-1].endswith("_file") and (*parts[:-1], parts[-1].removesuffix("_file")) in _SECRETS
            if from_file:
                parts[-1] = parts[-1].removesuffix("_file")
                value = _secret_file(name, value)
            *sections, key = _known_path(self.settings_cls, parts, f"environment variable {name}")
            place = found
            for section in sections:
                place = place.setdefault(section, {})
            place[key] = value
        return found


def _secret_file(name: str, path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(
            f"{name} names {path}, which cannot be read: {exc}. Mend the path or the file's mode."
        ) from exc


def _known_path(model: type[BaseModel], parts: list[str], where: str) -> list[str]:
    """Return *parts* as the model spells them; a name is matched without case."""
    spelled: list[str] = []
    fields = model.model_fields
    for index, part in enumerate(parts):
        names = {name.lower(): name for name in fields}
        if part not in names:
            raise ConfigError(f"{where}: unknown key {part!r}{_nearest(part, names)}")
        spelled.append(names[part])
        inner = section_of(fields[names[part]])
        last = index == len(parts) - 1
        if (inner is None) != last:
            raise ConfigError(f"{where}: {part!r} is {'a section, not a key' if last else 'a key, not a section'}.")
        fields = inner.model_fields if inner else {}
    return spelled


def section_of(field: FieldInfo) -> type[_Section] | None:
    """Return the section that *field* is, or none for a key."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, _Section) else None


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in known], 1, 0.5)
    spelled = {one.lower(): one for one in known}
    return f"; did you mean {spelled[near[0]]!r}?" if near else f"; known are {', '.join(spelled.values())}."


def load(file: Path, **flags: Mapping[str, object]) -> Settings:
    """Return the settings in *file* and the environment; *flags* are sections with keys that go before both.

    Raises:
        ConfigError: naming each wrong key, what is wrong with it, and the nearest known name.
    """
    content = _read(file)
    for path in _SECRETS:
        if _get(content, path) is not None:
            variable = PREFIX + "__".join(path).upper()
            raise ConfigError(
                f"{file}: [{'.'.join(path[:-1])}] {path[-1]} is a secret and does not belong into the file: "
                f"set {variable}, or {variable}_FILE to the path of a file that holds it."
            )
    for path in _PATHS:
        _resolve(content, path, file.parent.absolute())
    content = _over(_over(content, _Environment(Settings)()), flags)
    endpoint = content.get("endpoint")
    if isinstance(endpoint, dict):
        content["endpoint"] = endpoint | {"secret_headers": _secret_headers(file, endpoint)}
    try:
        settings = Settings(**content)
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(file, exc))) from exc
    _check(file, settings)
    return settings


def _resolve(content: dict[str, Any], path: tuple[str, ...], folder: Path) -> None:
    """Make the path that a key holds, or its default, one from the root; a relative one begins at *folder*."""
    *sections, key = path
    fields, place = Settings.model_fields, content
    for section in sections:
        inner = section_of(fields[section])
        assert inner is not None  # noqa: S101 - _PATHS names keys in sections
        fields, place = inner.model_fields, place.setdefault(section, {})
        if not isinstance(place, dict):
            return
    value = place.get(key, fields[key].default)
    if value and isinstance(value, str | Path):
        place[key] = os.path.normpath(folder / Path(value).expanduser())


def _secret_headers(file: Path, endpoint: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the headers that `[endpoint] secret_headers` names, each with its value from the environment.

    Raises:
        ConfigError: for a name that no header can have, one without a value, and a value without a name.
    """
    place = f"{file}: [endpoint] secret_headers"
    names = endpoint.get("secret_headers", [])
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ConfigError(f'{place}: not a list of names, as ["X-Api-Key"]; values come from {_SECRET_HEADERS}__….')
    given = {name.upper(): name for name in os.environ if name.upper().startswith(f"{_SECRET_HEADERS}__")}
    plain = endpoint.get("headers")
    seen = {name.lower() for name in plain} if isinstance(plain, dict) else set[str]()
    variables: dict[str, str] = {}
    for name in names:
        try:
            _check_header(name, seen)
        except ValueError as exc:
            raise ConfigError(f"{place}: {exc}.") from exc
        variable = f"{_SECRET_HEADERS}__{name.upper().replace('-', '_')}"
        if not _VARIABLE_NAME.fullmatch(name) or variable in variables:
            raise ConfigError(f"{place}: {name!r} has no variable of its own: use letters, digits and - in its name.")
        variables[variable] = name
    found = []
    for variable, name in variables.items():
        # A name that ends in -File is a header like any other: only what no header claims names a file.
        value = os.environ[given.pop(variable)] if variable in given else None
        if value is None and f"{variable}_FILE" in given and f"{variable}_FILE" not in variables:
            source = given.pop(f"{variable}_FILE")
            value = _secret_file(source, os.environ[source])
        if not value:
            raise ConfigError(f"{place}: {name} needs {variable}, or {variable}_FILE.")
        if _CONTROL.search(value):
            raise ConfigError(f"{variable} has a line's end or another control character, which no header can have.")
        found.append({"name": name, "value": value})
    if given:
        raise ConfigError(
            f"environment variable {min(given.values())} belongs to no header: name it in [endpoint] secret_headers, "
            "or unset it."
        )
    return found


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return *below* with what *above* has in its place, section by section."""
    found = dict(below)
    for key, value in above.items():
        inner = found.get(key)
        found[key] = _over(inner, value) if isinstance(inner, Mapping) and isinstance(value, Mapping) else value
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as exc:
        raise ConfigError(f"{file}: no such configuration. Start from configs/nightly.toml.") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{file}: the configuration cannot be read: {exc}.") from exc
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{file}: not TOML: {exc}.") from exc


def _get(content: Mapping[str, Any], path: tuple[str, ...]) -> Any:
    place: Any = content
    for part in path:
        place = place.get(part) if isinstance(place, Mapping) else None
    return place


def _explain(file: Path, error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        where = [str(part) for part in problem["loc"]]
        section, key = ".".join(where[:-1]), where[-1]
        place = f"{file}: [{section}] {key}" if section else f"{file}: [{key}]"
        variable = PREFIX + "__".join(where).upper()
        if variable in {name.upper() for name in os.environ}:
            place = f"environment variable {variable}"
        if problem["type"] == "extra_forbidden":
            yield f"{place}: unknown key{_nearest(key, _keys_at(where[:-1]))}"
        elif problem["type"] == "missing":
            yield f"{place}: missing; {_describe(where)}."
        else:
            yield f"{place}: {problem['msg'].removeprefix('Value error, ').rstrip('.')}."


def _keys_at(path: list[str]) -> list[str]:
    fields = Settings.model_fields
    for part in path:
        inner = section_of(fields[part]) if part in fields else None
        fields = inner.model_fields if inner else {}
    return list(fields)


def _describe(path: list[str]) -> str:
    field: FieldInfo | None = None
    fields = Settings.model_fields
    for part in path:
        field = fields.get(part)
        inner = section_of(field) if field else None
        fields = inner.model_fields if inner else {}
    if field is None or section_of(field):
        return "the section must be there"
    choices = get_args(field.annotation)
    return f"{field.description}" + (f" ({', '.join(map(repr, choices))})" if choices else "")


def _check(file: Path, settings: Settings) -> None:
    """Refuse what single keys cannot show to be wrong."""
    state, keys = settings.state.path.absolute(), settings.state.keys.absolute()
    if keys == state or state in keys.parents:
        raise ConfigError(
            f"{file}: [state] keys ({keys}) lies inside [state] path ({state}): whoever copies the state would "
            "have the keys. Put it beside the state folder."
        )
    token = settings.endpoint.token
    if token is not None:
        try:
            int(token.get_secret_value())
        except ValueError:
            raise ConfigError(f"{PREFIX}ENDPOINT__TOKEN is not an integer, as the platform's Token is.") from None
    _check_auth(file, settings.endpoint.auth)
    _check_connection(file, settings.endpoint)


def _check_auth(file: Path, auth: AuthSettings) -> None:
    if auth.kind == "none":
        return
    if auth.kind == "password" and not auth.username:
        raise ConfigError(f'{file}: [endpoint.auth] kind = "password" needs username.')
    name = f"{PREFIX}ENDPOINT__AUTH__{'BEARER' if auth.kind == 'bearer' else 'PASSWORD'}"
    secret = auth.bearer if auth.kind == "bearer" else auth.password
    if secret is None or not secret.get_secret_value():
        raise ConfigError(f'{file}: [endpoint.auth] kind = "{auth.kind}" needs {name}, or {name}_FILE.')
    if auth.kind == "bearer" and _CONTROL.search(secret.get_secret_value()):
        raise ConfigError(f"{name} has a line's end or another control character, which no header can have.")


def _check_connection(file: Path, endpoint: EndpointSettings) -> None:
    if endpoint.in_the_clear and not endpoint.allow_plain_http:
        raise ConfigError(
            f"{file}: [endpoint] base_url: {endpoint.base_url} is plain http, so that clients' ids, their consent and "
            "every token or password could be read and changed on the way. Use https, or say allow_plain_http = true "
            "if the network is yours to the last cable."
        )
    if endpoint.tls.key and not endpoint.tls.certificate:
        raise ConfigError(f"{file}: [endpoint.tls] key needs certificate: a key alone says nothing of who we are.")
    name = f"{PREFIX}ENDPOINT__PROXY_AUTH"
    proxy_auth = endpoint.proxy_auth.get_secret_value() if endpoint.proxy_auth else None
    if proxy_auth is not None and (":" not in proxy_auth or _CONTROL.search(proxy_auth)):
        raise ConfigError(f"{name} is not of the form user:password.")
