"""Typed, frozen settings: flags over environment over file over defaults; secrets from the environment alone.

One section a consumer, which gets its own section and no more. `docs/configuration.md` describes every key.
"""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
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
_PATHS = (("export", "path"), ("state", "path"), ("state", "keys"), ("report", "path"))
_SECRETS = (("endpoint", "token"), ("endpoint", "auth", "bearer"))


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


def _codes(value: object) -> object:
    return [part for part in value.replace(",", " ").split() if part] if isinstance(value, str) else value


Codes = Annotated[tuple[int, ...], BeforeValidator(_codes)]


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

    kind: Literal["none", "bearer"] = Field("none", description="bearer: a fixed token in the Authorization header")
    bearer: SecretStr | None = Field(None, description="the bearer token; from the environment or a file only")


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
    auth: AuthSettings = Field(default_factory=lambda: AuthSettings.model_validate({}))

    @property
    def target(self) -> str:
        """What state is bound to: the platform and the operator on it."""
        return f"{self.base_url} operator {self.operator or 0}"


class DeliverySettings(_Section):
    """How hard a run may push."""

    max_concurrency: int = Field(16, ge=1, le=1000, description="requests in flight at once, at most")
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
            if not name.upper().startswith(PREFIX):
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
    for section, key in _PATHS:
        inner = content.setdefault(section, {})
        if isinstance(inner, dict):
            default = section_of(Settings.model_fields[section])
            value = inner.get(key, default.model_fields[key].default if default else "")
            if value and isinstance(value, str | Path):
                inner[key] = os.path.normpath(file.parent.absolute() / Path(value).expanduser())
    try:
        settings = Settings(**_over(_over(content, _Environment(Settings)()), flags))
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(file, exc))) from exc
    _check(file, settings)
    return settings


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
    auth = settings.endpoint.auth
    if auth.kind == "bearer" and (auth.bearer is None or not auth.bearer.get_secret_value()):
        name = f"{PREFIX}ENDPOINT__AUTH__BEARER"
        raise ConfigError(f'{file}: [endpoint.auth] kind = "bearer" needs {name}, or {name}_FILE.')
