"""The sections and their keys, typed and frozen, each with its default and what it means."""

from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PrivateAttr, SecretStr, model_validator
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from sync_job.config import values
from sync_job.consent import tokens
from sync_job.consent.channels import FIELDS


class Section(BaseModel):
    """What all sections are: frozen, and without unknown keys; an error never shows a value, which may be a secret."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)


class RunSettings(Section):
    """When and where a run takes place."""

    timezone: Annotated[str, AfterValidator(values.zone)] = Field(
        "UTC", description="the zone of times without one: in exports, and in what people read"
    )

    @property
    def zone(self) -> ZoneInfo:
        """The time zone itself."""
        return ZoneInfo(self.timezone)


class ColumnSettings(Section):
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


Blank = Literal["", "denied", "nothing"]


class BlankSettings(Section):
    """What a blank cell of each channel's column says; "": nothing, and a column of blanks without a no is refused."""

    AllowSms: Blank = Field("", description="of AllowSms")
    AllowEmail: Blank = Field("", description="of AllowEmail")
    AllowPush: Blank = Field("", description="of AllowPush")
    AllowEmailOnlineCheque: Blank = Field("", description="of AllowEmailOnlineCheque")

    @property
    def channels(self) -> tuple[Blank, ...]:
        """What a blank says, in the order of CHANNELS."""
        return tuple(getattr(self, field) for field in FIELDS)


class ValueSettings(Section):
    """More tokens of this export's flags, for all channels and for one; in any case, blanks around ignored."""

    allowed: values.Words = Field((), description="tokens that say yes, in every channel's column")
    denied: values.Words = Field((), description="tokens that say no, in every channel's column")
    nothing: values.Words = Field((), description="tokens that state nothing, in every channel's column")
    AllowSms: values.Meanings = Field({}, description='such tokens of its column alone, as { allowed = ["S"] }')
    AllowEmail: values.Meanings = Field({}, description="likewise")
    AllowPush: values.Meanings = Field({}, description="likewise")
    AllowEmailOnlineCheque: values.Meanings = Field({}, description="likewise")

    def meanings(self, inverted: tuple[str, ...] = ()) -> tuple[dict[str, int], ...]:
        """Return what tokens say in each channel's column beside those built in, in the order of CHANNELS.

        Raises:
            ValueError: when they contradict each other, or what is built in.
        """
        everywhere = tokens.common({said: getattr(self, said) for said in tokens.SAID})
        return tuple(
            tokens.of_channel(everywhere, getattr(self, field), inverted=field in inverted) for field in FIELDS
        )


_AsOf = Annotated[str, AfterValidator(values.as_of)]
# Under names of their own, because `values` is a key of [export].
_OptionalPath = values.OptionalPath
_Encoding = Annotated[str, AfterValidator(values.encoding)]
_Delimiter = Annotated[str, AfterValidator(values.delimiter)]
_Channels = values.Channels
_Where = values.Where
_Complete = Annotated[str, AfterValidator(values.complete)]


class ExportSettings(Section):
    """Where the export is and how it is to be read."""

    path: str = Field("", description="a file, a glob, a folder, or an address; or given on the command line")
    format: Literal["auto", "csv", "parquet", "excel", "jsonl"] = Field(
        "auto", description="auto: by the file's content"
    )
    sheet: str = Field("", description='the sheet of a workbook; "" for the only one with anything in it')
    kind: Literal["full", "delta"] = Field("full", description="full: says who is absent; delta: changed clients only")
    as_of: _AsOf = Field(
        description='how the export\'s age is known; must be said: "none", "mtime", "column:NAME", '
        '"filename:PATTERN" or "flag"'
    )
    pick: Literal["all", "newest"] = Field(
        "all", description="of several files: all are one export, or the newest is the export"
    )
    complete: _Complete = Field(
        "",
        description='how it is known to be complete: "stable:60s", "marker:PATTERN", "sidecar"; "" for not at all',
    )
    max_age_h: float = Field(36, gt=0, description="hours; an export that is older grants nothing")
    id_map: _OptionalPath = Field(
        None, description="a map from the CRM's ids to the platform's (crm_id, platform_id), for exports and lists"
    )
    absent: Literal["report", "deny"] = Field(
        "report", description="what it means that a full export no longer has a client: report: nothing; deny: a denial"
    )
    thousands: Literal["", " ", ",", "'"] = Field(
        "", description="what sets thousands apart in ids; a space is any blank, also those that do not break"
    )
    inverted: _Channels = Field((), description="channels whose column says the opposite, as one called DoNotCall")
    where: _Where = Field({}, description="which rows are this export's: columns, each with its value or values")
    encoding: _Encoding = Field(
        "auto",
        description='the encoding of text: its name, or "auto": by its byte order mark, else UTF-8 if it is that',
    )
    delimiter: _Delimiter = Field(
        "auto", description='what sets fields apart in text: "auto" by its first lines, or "," ";" "\\t" "|"'
    )
    header: bool = Field(
        True, description="whether text begins with the columns' names; false: columns by place, from 1"
    )
    comment: str = Field("", description='what a line of text begins with that is no row, as "#"; "" for no such lines')
    final_newline: bool = Field(
        True, description="whether text ends with a newline; then a last line without one grants nothing"
    )
    columns: ColumnSettings = Field(default_factory=lambda: ColumnSettings.model_validate({}))
    values: ValueSettings = Field(default_factory=lambda: ValueSettings.model_validate({}))
    blank: BlankSettings = Field(default_factory=lambda: BlankSettings.model_validate({}))

    @model_validator(mode="after")
    def _tokens_mean_one_thing(self) -> "ExportSettings":
        self.values.meanings(self.inverted)
        return self


class AuthSettings(Section):
    """How a request is authorised."""

    kind: Literal["none", "bearer", "password"] = Field(
        "none",
        description="bearer: a fixed token in the Authorization header; password: tokens that a login gives",
    )
    bearer: SecretStr | None = Field(None, description="the bearer token; from the environment or a file only")
    login_path: Annotated[str, AfterValidator(values.path_of_url)] = Field(
        "/ManagerLogin", description="where tokens are asked for, behind base_url"
    )
    username: str = Field("", description="who logs in")
    password: SecretStr | None = Field(None, description="of that user; from the environment or a file only")


class TlsSettings(Section):
    """Whom to trust over https, and who we are."""

    ca: values.OptionalPath = Field(None, description="certificates in PEM that are trusted instead of the system's")
    certificate: values.OptionalPath = Field(None, description="our certificate and its chain in PEM")
    key: values.OptionalPath = Field(None, description="its key in PEM, unless the certificate's file has it")
    key_password: SecretStr | None = Field(
        None, description="what the key is encrypted with; from the environment or a file only"
    )


class SecretHeader(Section):
    """A header whose value is a secret."""

    name: str
    value: SecretStr


class EndpointSettings(Section):
    """The platform that consent is pushed to."""

    base_url: Annotated[str, AfterValidator(values.base_url)] = Field(
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
    retry_codes: values.Codes = Field((), description="ErrorCodes that mean: try again")
    not_found_codes: values.Codes = Field((), description="ErrorCodes that mean: no such client")
    token: Annotated[
        SecretStr | None, Field(description="the body's Token, an integer; from the environment or a file only")
    ] = None
    allow_plain_http: bool = Field(
        False, description="whether consent, tokens and passwords may cross a network unencrypted"
    )
    headers: Annotated[dict[str, str], AfterValidator(values.headers)] = Field(
        {}, description="further headers of each request, which are no secrets"
    )
    secret_headers: tuple[SecretHeader, ...] = Field(
        (), description="names of headers whose values come from the environment or files only"
    )
    proxy: Annotated[str, AfterValidator(values.proxy)] = Field(
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
        return not (values.is_loopback(self.base_url) and (not self.proxy or values.is_loopback(self.proxy)))

    @property
    def target(self) -> str:
        """What state is bound to: the platform and the operator on it."""
        return f"{self.base_url} operator {self.operator or 0}"


class DeliverySettings(Section):
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
        20, ge=0, le=1000, description="rows that go first, one at a time, and stop the run if all are refused alike"
    )
    window: Annotated[str, AfterValidator(values.window)] = Field(
        "", description='when an export may be sent, as "01:00-06:00" in [run] timezone; "" for always'
    )


class ListColumnSettings(Section):
    """The names of a list's columns; the client's may also be that of [export.columns]."""

    client: str = Field("Client", min_length=1, description="the client's id on the platform")
    received_at: str = Field("received_at", description="when we got it: the clock starts there")
    withdrawn_at: str = Field("withdrawn_at", description="when the person withdrew; received_at where there is none")
    scope: str = Field("scope", description="which channels")
    basis: str = Field("basis", description="on what ground")
    request_ref: str = Field("request_ref", description="the request's reference")


class WithdrawalSettings(Section):
    """What is taken for granted of lists of withdrawals, and until when they are to be acknowledged."""

    scope: Annotated[str, AfterValidator(values.scope)] = Field(
        "", description='what a row without a scope covers: "all", "marketing" or channels; "" for no default'
    )
    basis: Literal["", "consent-withdrawn", "objection", "erasure", "complaint"] = Field(
        "", description='the ground of a row that names none; "" for no default'
    )
    target_h: float = Field(24, gt=0, description="hours within which a withdrawal should be acknowledged")
    limit_h: float = Field(48, gt=0, description="hours after which a withdrawal that is not is an alarm: exit 7")
    profile: Annotated[str, AfterValidator(values.profile)] = Field(
        "", description='a statutory deadline in the place of limit_h; "" for none'
    )
    columns: ListColumnSettings = Field(default_factory=lambda: ListColumnSettings.model_validate({}))


class GuardSettings(Section):
    """From which number of clients on a person has to look: above the larger of a floor and a share."""

    grants: Literal["guarded", "never"] = Field("guarded", description="never: this configuration grants nothing")
    re_grants: int = Field(10, ge=0, description="clients that are allowed again what they were denied")
    re_grants_share: float = Field(0.0005, ge=0, description="of the snapshot")
    new_grants: int = Field(500, ge=0, description="clients that are allowed what nothing was known of")
    new_grants_share: float = Field(0.02, ge=0, description="of the snapshot")
    new_grants_nights: float = Field(3.0, ge=0, description="times the median of the last 14 nights")
    revocations: int = Field(100, ge=0, description="clients that an export denies what was allowed, per channel")
    revocations_share: float = Field(0.05, ge=0, description="of the channel's allowed")
    changed: int = Field(200, ge=0, description="known clients with any change: ids look renumbered")
    changed_share: float = Field(0.05, ge=0, description="of the known clients of the export")
    unknown: int = Field(200, ge=0, description="clients of whom nothing is known: ids look renumbered")
    unknown_share: float = Field(0.1, ge=0, description="of the clients of the export")
    lost: int = Field(50, ge=0, description="more clients than last time who are allowed and of whom nothing is stated")
    lost_share: float = Field(0.001, ge=0, description="of the clients of the export")
    shrinkage: int = Field(20, ge=0, description="fewer clients than in the last accepted full export")
    shrinkage_share: float = Field(0.02, ge=0, description="of its clients")
    rejects: int = Field(50, ge=0, description="rows that cannot be read")
    rejects_share: float = Field(0.01, ge=0, description="of the export's rows")
    list: int = Field(1000, ge=0, description="clients of a list of withdrawals, whose number is to be confirmed")
    list_share: float = Field(0.01, ge=0, description="of the snapshot")


class StateSettings(Section):
    """Where what is known and owed is kept."""

    path: Path = Field(Path("state"), description="the state folder; one for each target")
    keys: Path = Field(Path("keys"), description="the folder of keys; outside the state folder")


class ReportSettings(Section):
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
    page: bool = Field(True, description="whether each run writes a page for people, report.html")
    language: Literal["en", "ru"] = Field("en", description="the language of that page")
    keep_days: int = Field(100, ge=1, le=36500, description="days after which a report keeps its summary alone")


class MetricsSettings(Section):
    """What a run leaves for Prometheus."""

    textfile: values.MetricsFile = Field(
        None, description="the text file that node_exporter's textfile collector reads; it ends in .prom"
    )


class NotifySettings(Section):
    """Who is told how runs end."""

    webhook: values.SecretAddress = Field(
        None, description="where a message goes when a run has ended; from the environment or a file only"
    )
    format: Literal["json", "slack"] = Field("json", description="what the webhook takes; slack: a chat's messages")
    when: Literal["change", "always", "trouble"] = Field(
        "change", description="change: the state is not what was told last; trouble: whenever it is not fine"
    )
    ping: values.SecretAddress = Field(
        None, description="the address of a monitor that waits for each run; from the environment or a file only"
    )
    ping_kinds: values.Kinds = Field(("run",), description="the kinds of runs that ping")
    ping_attention: Literal["success", "fail"] = Field(
        "success", description="what an exit code of 1 is to the monitor"
    )
    timeout_s: float = Field(5, gt=0, le=60, description="seconds that telling may take, twice a run at most")
    allow_plain_http: bool = Field(False, description="whether these addresses may cross a network unencrypted")


class Settings(BaseSettings):
    """All settings of one target."""

    model_config = SettingsConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    run: RunSettings = Field(default_factory=lambda: RunSettings.model_validate({}))
    export: ExportSettings
    endpoint: EndpointSettings
    delivery: DeliverySettings = Field(default_factory=lambda: DeliverySettings.model_validate({}))
    withdrawals: WithdrawalSettings = Field(default_factory=lambda: WithdrawalSettings.model_validate({}))
    guards: GuardSettings = Field(default_factory=lambda: GuardSettings.model_validate({}))
    state: StateSettings = Field(default_factory=lambda: StateSettings.model_validate({}))
    report: ReportSettings = Field(default_factory=lambda: ReportSettings.model_validate({}))
    metrics: MetricsSettings = Field(default_factory=lambda: MetricsSettings.model_validate({}))
    notify: NotifySettings = Field(default_factory=lambda: NotifySettings.model_validate({}))

    _file: Path | None = PrivateAttr(None)

    @property
    def file(self) -> str:
        """The file that the settings come from, for commands that name it; "" for none."""
        return str(self._file.absolute()) if self._file else ""

    def come_from(self, file: Path) -> None:
        """Note which file they come from."""
        self._file = file

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


def section_of(field: FieldInfo) -> type[Section] | None:
    """Return the section that *field* is, or none for a key."""
    kind = field.annotation
    return kind if isinstance(kind, type) and issubclass(kind, Section) else None
