"""Reads the settings: flags over environment over file over defaults, secrets from the environment alone."""

import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import PydanticBaseSettingsSource

from sync_job.config import values
from sync_job.config.sections import AuthSettings, EndpointSettings, NotifySettings, Settings, section_of
from sync_job.config.values import PREFIX
from sync_job.errors import ConfigError

_PATHS = (
    ("export", "path"),
    ("export", "id_map"),
    ("endpoint", "tls", "ca"),
    ("endpoint", "tls", "certificate"),
    ("endpoint", "tls", "key"),
    ("state", "path"),
    ("state", "keys"),
    ("report", "path"),
    ("metrics", "textfile"),
)
SECRETS = (
    ("endpoint", "token"),
    ("endpoint", "proxy_auth"),
    ("endpoint", "auth", "bearer"),
    ("endpoint", "auth", "password"),
    ("endpoint", "tls", "key_password"),
    ("notify", "webhook"),
    ("notify", "ping"),
)
SECRET_HEADERS = f"{PREFIX}ENDPOINT__SECRET_HEADERS"


class _Environment(PydanticBaseSettingsSource):
    """Reads `CONSENT_SYNC__SECTION__KEY`, and `…_FILE` for secrets; or all but the *secrets*."""

    def __init__(self, settings_cls: type[Settings], *, secrets: bool) -> None:
        super().__init__(settings_cls)
        self._secrets = secrets

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        """Return nothing: the whole environment is read at once."""
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for name, value in os.environ.items():
            if not name.upper().startswith(PREFIX) or name.upper().startswith(f"{SECRET_HEADERS}__"):
                continue
            parts = name[len(PREFIX) :].lower().split("__")
            from_file = parts[-1].endswith("_file") and (*parts[:-1], parts[-1].removesuffix("_file")) in SECRETS
            if from_file:
                parts[-1] = parts[-1].removesuffix("_file")
            if tuple(parts) in SECRETS and not self._secrets:
                continue
            if from_file:
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


def _nearest(name: str, known: Mapping[str, object] | list[str]) -> str:
    near = difflib.get_close_matches(name.lower(), [one.lower() for one in known], 1, 0.5)
    spelled = {one.lower(): one for one in known}
    return f"; did you mean {spelled[near[0]]!r}?" if near else f"; known are {', '.join(spelled.values())}."


def load(file: Path, **flags: Mapping[str, object]) -> Settings:
    """Return the settings in *file* and the environment; *flags* are sections with keys that go before both.

    Raises:
        ConfigError: naming each wrong key, what is wrong with it, and the nearest known name.
    """
    return _load(file, flags, secrets=True)


def load_without_secrets(file: Path, **flags: Mapping[str, object]) -> Settings:
    """Return the settings as `load` does, as if no secret was needed and none was given: to look, and not to send.

    Raises:
        ConfigError: as `load`, for anything else.
    """
    return _load(file, flags, secrets=False)


def _load(file: Path, flags: Mapping[str, Mapping[str, object]], *, secrets: bool) -> Settings:
    content = _read(file)
    for path in SECRETS:
        if secrets and _get(content, path) is not None:
            variable = PREFIX + "__".join(path).upper()
            raise ConfigError(
                f"{file}: [{'.'.join(path[:-1])}] {path[-1]} is a secret and does not belong into the file: "
                f"set {variable}, or {variable}_FILE to the path of a file that holds it."
            )
    for path in _PATHS:
        _resolve(content, path, file.parent.absolute())
    content = _over(_over(content, _Environment(Settings, secrets=secrets)()), flags)
    endpoint = content.get("endpoint")
    if isinstance(endpoint, dict):
        headers = _secret_headers(file, endpoint) if secrets else _names_of_headers(endpoint)
        content["endpoint"] = endpoint | {"secret_headers": headers}
    try:
        settings = Settings(**content)
    except ValidationError as exc:
        raise ConfigError("\n".join(_explain(file, exc))) from exc
    _check(file, settings, secrets=secrets)
    settings.come_from(file)
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
    elsewhere = path == ("export", "path") and not values.is_path(str(value))
    if value and isinstance(value, str | Path) and not elsewhere:
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
        raise ConfigError(f'{place}: not a list of names, as ["X-Api-Key"]; values come from {SECRET_HEADERS}__….')
    given = {name.upper(): name for name in os.environ if name.upper().startswith(f"{SECRET_HEADERS}__")}
    plain = endpoint.get("headers")
    seen = {name.lower() for name in plain} if isinstance(plain, dict) else set[str]()
    variables: dict[str, str] = {}
    for name in names:
        try:
            values.check_header(name, seen)
        except ValueError as exc:
            raise ConfigError(f"{place}: {exc}.") from exc
        variable = f"{SECRET_HEADERS}__{name.upper().replace('-', '_')}"
        if not values.VARIABLE_NAME.fullmatch(name) or variable in variables:
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
        if values.CONTROL.search(value):
            raise ConfigError(f"{variable} has a line's end or another control character, which no header can have.")
        found.append({"name": name, "value": value})
    if given:
        raise ConfigError(
            f"environment variable {min(given.values())} belongs to no header: name it in [endpoint] secret_headers, "
            "or unset it."
        )
    return found


def _names_of_headers(endpoint: Mapping[str, Any]) -> list[dict[str, str]]:
    """Return the headers that `[endpoint] secret_headers` names, without their values."""
    names = endpoint.get("secret_headers", [])
    if isinstance(names, str):
        names = [name.strip() for name in names.split(",") if name.strip()]
    return [{"name": str(name), "value": ""} for name in names] if isinstance(names, list) else []


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


def _check(file: Path, settings: Settings, *, secrets: bool) -> None:
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
    if secrets:
        _check_auth(file, settings.endpoint.auth)
    _check_connection(file, settings.endpoint)
    _check_notify(settings.notify)


def _check_auth(file: Path, auth: AuthSettings) -> None:
    if auth.kind == "none":
        return
    if auth.kind == "password" and not auth.username:
        raise ConfigError(f'{file}: [endpoint.auth] kind = "password" needs username.')
    name = f"{PREFIX}ENDPOINT__AUTH__{'BEARER' if auth.kind == 'bearer' else 'PASSWORD'}"
    secret = auth.bearer if auth.kind == "bearer" else auth.password
    if secret is None or not secret.get_secret_value():
        raise ConfigError(f'{file}: [endpoint.auth] kind = "{auth.kind}" needs {name}, or {name}_FILE.')
    if auth.kind == "bearer" and values.CONTROL.search(secret.get_secret_value()):
        raise ConfigError(f"{name} has a line's end or another control character, which no header can have.")


def _check_notify(notify: NotifySettings) -> None:
    for key, secret in (("WEBHOOK", notify.webhook), ("PING", notify.ping)):
        url = secret.get_secret_value() if secret else "https:"
        if not url.startswith("https:") and not notify.allow_plain_http and not values.is_loopback(url):
            raise ConfigError(
                f"{PREFIX}NOTIFY__{key} is plain http: whoever reads it on the way may speak in our name. Use https, "
                "or say [notify] allow_plain_http = true if the network is yours to the last cable."
            )


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
    if proxy_auth is not None and (":" not in proxy_auth or values.CONTROL.search(proxy_auth)):
        raise ConfigError(f"{name} is not of the form user:password.")
