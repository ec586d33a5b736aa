"""Settings come from flags, environment and file in that order, and a wrong one is named with its cure."""

import re
from pathlib import Path

import pytest
from pydantic import ValidationError

from sync_job import config
from sync_job.config import PREFIX, Settings
from sync_job.errors import ConfigError, Exit

LEAST = """
[export]
as_of = "none"
[endpoint]
base_url = "https://loyalty.example.com/partner"
"""


@pytest.fixture(autouse=True)
def _no_settings_around(monkeypatch: pytest.MonkeyPatch) -> None:
    """No test sees what the machine has in its environment."""
    import os

    for name in [one for one in os.environ if one.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return a configuration with what is required and nothing else."""
    path = tmp_path / "nightly.toml"
    path.write_text(LEAST)
    return path


def wrong(file: Path, text: str = "") -> str:
    """Return what the error says when *text* is added to the file."""
    file.write_text(LEAST + text)
    with pytest.raises(ConfigError) as caught:
        config.load(file)
    assert caught.value.exit_code is Exit.CONFIG
    return str(caught.value)


def with_url(file: Path, url: str) -> Settings:
    """Return the settings with this base_url."""
    file.write_text(LEAST.replace("https://loyalty.example.com/partner", url))
    return config.load(file)


def test_unknown_key_names_the_nearest(file: Path) -> None:
    """A misspelled key is an error that says which one was meant, and in which section."""
    said = wrong(file, "[delivery]\nmax_concurency = 4\n")
    assert "[delivery] max_concurency: unknown key; did you mean 'max_concurrency'?" in said
    assert str(file) in said


def test_unknown_key_like_no_other_lists_the_known(file: Path) -> None:
    """A key that resembles none is an error that lists what there is."""
    assert "unknown key; known are timezone" in wrong(file, "[run]\nxyzzy = 1\n")


def test_unknown_section_names_the_nearest(file: Path) -> None:
    """A misspelled section is an error that says which one was meant."""
    assert "[raport]: unknown key; did you mean 'report'?" in wrong(file, '[raport]\npath = "x"\n')


def test_unknown_key_of_a_nested_section_names_the_nearest(file: Path) -> None:
    """A misspelled column is an error that names the section in full."""
    assert "[export.columns] AlowSms: unknown key; did you mean 'AllowSms'?" in wrong(
        file, '[export.columns]\nAlowSms = "x"\n'
    )


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ('[delivery]\nmax_concurrency = "many"\n', "[delivery] max_concurrency"),
        ("[delivery]\nmax_concurrency = 0\n", "[delivery] max_concurrency"),
        ("[delivery]\ntimeout_s = -1\n", "[delivery] timeout_s"),
        ("[state]\npath = 3\n", "[state] path"),
        ('[report]\nresults = "xlsx"\n', "[report] results"),
        ("[report]\ntolerate = 2\n", "[report] tolerate"),
        ('[export.columns]\nClient = ""\n', "[export.columns] Client"),
        ('[export.blank]\nAllowSms = "no"\n', "[export.blank] AllowSms"),
        ('[withdrawals]\nscope = "fax"\n', "[withdrawals] scope"),
        ('[withdrawals]\nbasis = "whim"\n', "[withdrawals] basis"),
        ('[withdrawals]\nprofile = "never"\n', "[withdrawals] profile"),
        ("[withdrawals]\ntarget_h = 0\n", "[withdrawals] target_h"),
        ("[withdrawals]\nlimit_h = -1\n", "[withdrawals] limit_h"),
        ('[withdrawals.columns]\nclient = ""\n', "[withdrawals.columns] client"),
        ('[guards]\ngrants = "always"\n', "[guards] grants"),
        ("[guards]\nre_grants = 0.5\n", "[guards] re_grants"),
        ('allow_plain_http = "perhaps"\n', "[endpoint] allow_plain_http"),
        ("headers = { X-Tenant = 1 }\n", "[endpoint.headers] X-Tenant"),
        ('headers = "X-Tenant: 1"\n', "[endpoint] headers"),
        ('proxy = "proxy.example.com:3128"\n', "[endpoint] proxy"),
        ('[endpoint.auth]\nkind = "basic"\n', "[endpoint.auth] kind"),
        ('[endpoint.auth]\nlogin_path = "ManagerLogin"\n', "[endpoint.auth] login_path"),
        ("[endpoint.auth]\nusername = 3\n", "[endpoint.auth] username"),
        ("[endpoint.tls]\nca = 3\n", "[endpoint.tls] ca"),
    ],
)
def test_wrong_value_names_file_section_and_key(file: Path, text: str, key: str) -> None:
    """A value of the wrong type or out of range is an error that says where it stands."""
    assert f"{file}: {key}: " in wrong(file, text)


@pytest.mark.parametrize(
    ("key", "says"),
    [
        ('encoding = "windos-1251"', "[export] encoding: 'windos-1251' is no encoding; did you mean 'windows-1251'?"),
        ('delimiter = ":"', "[export] delimiter: ':' sets no fields apart"),
        ('header = "maybe"', "[export] header: "),
        ("comment = 1", "[export] comment: "),
        ('final_newline = "x"', "[export] final_newline: "),
    ],
)
def test_how_text_is_written_is_said_in_known_words(file: Path, key: str, says: str) -> None:
    """An encoding, a delimiter or a switch that there is not is an error with its key."""
    file.write_text(LEAST.replace('as_of = "none"', f'as_of = "none"\n{key}'))
    with pytest.raises(ConfigError, match=re.escape(says)):
        config.load(file)


def test_missing_required_key_says_what_it_is_for(file: Path) -> None:
    """Without as_of the error names the key and its choices."""
    file.write_text(LEAST.replace('as_of = "none"', ""))
    with pytest.raises(
        ConfigError, match=re.escape("[export] as_of: missing; how the export's age is known")
    ) as caught:
        config.load(file)
    assert '"none"' in str(caught.value)


def with_export(file: Path, as_of: str, more: str = "") -> Settings:
    """Return the settings with this as_of, and *more* keys of [export]."""
    file.write_text(LEAST.replace('as_of = "none"', f'as_of = "{as_of}"\n{more}'))
    return config.load(file)


@pytest.mark.parametrize(
    "as_of",
    [
        "none",
        "mtime",
        "flag",
        "column:changed at",
        "filename:%Y-%m-%d",
        "filename:crm_%d%m%Y_%H%M%S",
        "filename:%%%Y%m%d",
    ],
)
def test_age_of_exports_may_be_known_in_five_ways(file: Path, as_of: str) -> None:
    """The text is kept as it is written."""
    assert with_export(file, as_of).export.as_of == as_of


@pytest.mark.parametrize(
    ("as_of", "said"),
    [
        ("", "none of 'none', 'mtime', 'column:NAME', 'filename:PATTERN', 'flag'"),
        ("MTIME", "none of 'none'"),
        ("column", "none of 'none'"),
        ("column:", "none of 'none'"),
        ("filename:", "none of 'none'"),
        ("flag:x", "none of 'none'"),
        ("filename:*.csv", "gives no date: it needs %Y, %m and %d"),
        ("filename:%Y-%m", "gives no date"),
        ("filename:%y%m%d", "%y in '%y%m%d' is not known; known are %Y %m %d %H %M %S"),
        ("filename:%Y%m%d%", "ends in a lone %"),
        ("filename:%Y%m%d-%d", "twice"),
        ("filename:%%Y%%m%%d", "gives no date"),
    ],
)
def test_age_that_cannot_be_known_so_names_the_choices(file: Path, as_of: str, said: str) -> None:
    """A pattern without a date would be found out at night otherwise."""
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        with_export(file, as_of)
    assert f"{file}: [export] as_of: " in str(caught.value)


@pytest.mark.parametrize("hours", ["0", "-1"])
def test_exports_may_have_some_age(file: Path, hours: str) -> None:
    """A limit of nothing would grant nothing ever; `[guards] grants = "never"` says that."""
    with pytest.raises(ConfigError, match=r"\[export\] max_age_h"):
        with_export(file, "mtime", f"max_age_h = {hours}")


def test_every_guard_has_a_floor_and_a_share_of_zero_at_least(file: Path) -> None:
    """None of its numbers may be negative, and zero and a billion are numbers like others."""
    guards = {name: value for name, value in config.load(file).guards if name != "grants"}
    floors = [name for name in guards if not name.endswith(("_share", "_nights"))]
    assert {f"{name}_share" for name in floors} | {*floors, "new_grants_nights"} == set(guards)
    for name in guards:
        assert f"[guards] {name}: " in wrong(file, f"[guards]\n{name} = -1\n")
        file.write_text(LEAST + f"[guards]\n{name} = 0\n")
        assert getattr(config.load(file).guards, name) == 0
        file.write_text(LEAST + f"[guards]\n{name} = 1000000000\n")
        assert getattr(config.load(file).guards, name) == 10**9


def test_sections_of_withdrawals_are_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the file and from the environment, columns too."""
    file.write_text(
        LEAST + '[export.blank]\nAllowPush = "denied"\n'
        '[withdrawals]\nscope = "sms, Email"\nbasis = "objection"\n[withdrawals.columns]\nclient = "Kunde"\n'
    )
    monkeypatch.setenv("CONSENT_SYNC__WITHDRAWALS__COLUMNS__SCOPE", "Umfang")
    settings = config.load(file)
    assert settings.export.blank.channels == ("", "", "denied", "")
    assert (settings.withdrawals.scope, settings.withdrawals.basis) == ("sms, Email", "objection")
    assert (settings.withdrawals.columns.client, settings.withdrawals.columns.scope) == ("Kunde", "Umfang")


def test_every_wrong_key_is_named_at_once(file: Path) -> None:
    """Two mistakes are two lines of one error."""
    said = wrong(file, '[run]\ntimezone = "Nowhere"\n[delivery]\nattempts = 0\n')
    assert len(said.splitlines()) == 2
    assert "timezone" in said
    assert "attempts" in said


def test_wrong_zone_names_the_nearest(file: Path) -> None:
    """A misspelled time zone is an error that says which one was meant."""
    assert "'Europe/Moskow' is no time zone; did you mean 'Europe/Moscow'?" in wrong(
        file, '[run]\ntimezone = "Europe/Moskow"\n'
    )


def test_environment_goes_before_the_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable overrides its key, and leaves the others of the section as the file has them."""
    file.write_text(LEAST + "[delivery]\nattempts = 2\nmax_concurrency = 3\n")
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATTEMPTS", "7")
    found = config.load(file).delivery
    assert (found.attempts, found.max_concurrency) == (7, 3)


def test_environment_reaches_nested_sections_and_lists(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Columns keep their case, and a list is read from numbers with commas or blanks between."""
    monkeypatch.setenv("CONSENT_SYNC__EXPORT__COLUMNS__ALLOWSMS", "SmsConsent")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__RETRY_CODES", "8, 9 10")
    found = config.load(file)
    assert found.export.columns.AllowSms == "SmsConsent"
    assert found.endpoint.retry_codes == (8, 9, 10)


def test_flags_go_before_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the command line says overrides variable and file."""
    file.write_text(LEAST.replace('as_of = "none"', 'as_of = "none"\npath = "file.csv"'))
    monkeypatch.setenv("CONSENT_SYNC__EXPORT__PATH", "environment.csv")
    assert config.load(file).export.path == "environment.csv"
    assert config.load(file, export={"path": "flag.csv"}).export.path == "flag.csv"


def test_flags_keep_secrets_readable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flag does not turn a secret from the environment into asterisks."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__TOKEN", "42")
    token = config.load(file, export={"path": "flag.csv"}).endpoint.token
    assert token is not None
    assert token.get_secret_value() == "42"


def test_unknown_variable_names_the_nearest(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A misspelled variable is an error, because whoever set it relies on it."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATEMPTS", "7")
    assert "CONSENT_SYNC__DELIVERY__ATEMPTS: unknown key 'atempts'; did you mean 'attempts'?" in wrong(file)


def test_variable_of_a_section_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable names a key; a whole section cannot be given in one."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY", "{}")
    assert "'delivery' is a section, not a key" in wrong(file)


def test_wrong_value_of_a_variable_names_the_variable(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error points to the environment, not to a line that the file does not have."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATTEMPTS", "often")
    assert wrong(file).startswith("environment variable CONSENT_SYNC__DELIVERY__ATTEMPTS: ")


@pytest.mark.parametrize(
    ("text", "variable"),
    [
        ("token = 42\n", "CONSENT_SYNC__ENDPOINT__TOKEN"),
        ('[endpoint.auth]\nbearer = "hush"\n', "CONSENT_SYNC__ENDPOINT__AUTH__BEARER"),
        ('[endpoint.auth]\npassword = "hush"\n', "CONSENT_SYNC__ENDPOINT__AUTH__PASSWORD"),
        ('[endpoint.tls]\nkey_password = "hush"\n', "CONSENT_SYNC__ENDPOINT__TLS__KEY_PASSWORD"),
        ('proxy_auth = "user:hush"\n', "CONSENT_SYNC__ENDPOINT__PROXY_AUTH"),
        ('[notify]\nwebhook = "https://chat.example.com/hush"\n', "CONSENT_SYNC__NOTIFY__WEBHOOK"),
        ('[notify]\nping = "https://hc.example.com/hush"\n', "CONSENT_SYNC__NOTIFY__PING"),
    ],
)
def test_secrets_are_refused_in_the_file(file: Path, text: str, variable: str) -> None:
    """A secret in TOML is an error that names the variable, and does not repeat the secret."""
    said = wrong(file, text)
    assert f"set {variable}, or {variable}_FILE" in said
    assert "hush" not in said


def test_secret_comes_from_a_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`…_FILE` names a file that holds the secret; the line's end is not part of it."""
    secret = tmp_path / "bearer"
    secret.write_text("hush\n")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE", str(secret))
    settings = config.load(file)
    assert settings.endpoint.auth.bearer is not None
    assert settings.endpoint.auth.bearer.get_secret_value() == "hush"
    assert "hush" not in repr(settings)


def test_secret_file_that_is_not_there_is_named(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the variable and the path."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE", str(tmp_path / "none"))
    assert f"CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE names {tmp_path / 'none'}" in wrong(file)


def test_only_secrets_have_a_file(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`…_FILE` of another key is unknown."""
    monkeypatch.setenv("CONSENT_SYNC__DELIVERY__ATTEMPTS_FILE", "x")
    assert "unknown key 'attempts_file'" in wrong(file)


def test_bearer_without_a_token_is_refused(file: Path) -> None:
    """The error names where the token is to come from."""
    said = wrong(file, '[endpoint.auth]\nkind = "bearer"\n')
    assert "needs CONSENT_SYNC__ENDPOINT__AUTH__BEARER, or CONSENT_SYNC__ENDPOINT__AUTH__BEARER_FILE" in said


def test_token_that_is_no_integer_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The platform's Token is an integer; the error does not show what was given."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__TOKEN", "hush")
    said = wrong(file)
    assert "CONSENT_SYNC__ENDPOINT__TOKEN is not an integer" in said
    assert "hush" not in said


def test_relative_paths_are_relative_to_the_file(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It does not matter where cron starts the command; defaults and `..` included."""
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    file.write_text(
        LEAST.replace('as_of = "none"', 'as_of = "none"\npath = "in/*.csv"') + '[state]\npath = "../state"\n'
    )
    found = config.load(Path("../nightly.toml"))
    assert found.export.path == str(tmp_path / "in" / "*.csv")
    assert found.state.path == tmp_path.parent / "state"
    assert found.state.keys == tmp_path / "keys"
    assert found.report.path == tmp_path / "reports"


def test_no_export_path_stays_none(file: Path) -> None:
    """An export that is named on the command line only does not become the file's folder."""
    assert config.load(file).export.path == ""


def test_settings_are_frozen(file: Path) -> None:
    """Neither a section nor a key can be changed once it was read."""
    settings = config.load(file)
    with pytest.raises(ValidationError, match="frozen"):
        settings.delivery.attempts = 9  # type: ignore[misc]
    with pytest.raises(ValidationError, match="frozen"):
        settings.delivery = settings.delivery.model_copy()  # type: ignore[misc]


@pytest.mark.parametrize("keys", ["state/keys", "state", "state/a/b"])
def test_keys_inside_the_state_are_refused(file: Path, keys: str) -> None:
    """Whoever copies the state must not have the keys with it."""
    assert "lies inside [state] path" in wrong(file, f'[state]\npath = "state"\nkeys = "{keys}"\n')


def test_keys_beside_the_state_are_fine(file: Path) -> None:
    """A name that only begins like the state's is no part of it."""
    file.write_text(LEAST + '[state]\npath = "state"\nkeys = "state-keys"\n')
    assert config.load(file).state.keys == file.parent / "state-keys"


@pytest.mark.parametrize(
    ("url", "normal"),
    [
        ("HTTPS://Loyalty.Example.com:443/Partner/", "https://loyalty.example.com/Partner"),
        ("http://localhost:80", "http://localhost"),
        ("http://127.0.0.1:8089/", "http://127.0.0.1:8089"),
        ("https://[2001:DB8::1]:8443/x", "https://[2001:db8::1]:8443/x"),
    ],
)
def test_base_url_is_normalised(file: Path, url: str, normal: str) -> None:
    """State is bound to the platform, not to a spelling of its address."""
    settings = with_url(file, url)
    assert settings.endpoint.base_url == normal
    assert settings.endpoint.target == f"{normal} operator 0"


@pytest.mark.parametrize(
    "url",
    [
        "loyalty.example.com",
        "ftp://loyalty.example.com",
        "https://",
        "https://user:word@loyalty.example.com",
        "https://loyalty.example.com/?a=1",
        "https://loyalty.example.com/#a",
        "https://loyalty.example.com:port",
    ],
)
def test_base_url_that_is_no_plain_address_is_refused(file: Path, url: str) -> None:
    """The error names the key."""
    with pytest.raises(ConfigError, match=re.escape("[endpoint] base_url: ")):
        with_url(file, url)


def test_missing_file_says_where_to_start(tmp_path: Path) -> None:
    """The error names the path and a configuration to begin with."""
    with pytest.raises(ConfigError, match=r"none\.toml: no such configuration\. Start from configs/nightly\.toml"):
        config.load(tmp_path / "none.toml")


def test_folder_is_no_configuration(tmp_path: Path) -> None:
    """What cannot be read as a file is a configuration error, not a bug."""
    with pytest.raises(ConfigError, match="cannot be read"):
        config.load(tmp_path)


@pytest.mark.parametrize("content", [b"[export\n", b"base_url = https", b"\xff\xfe"])
def test_what_is_not_toml_is_named(file: Path, content: bytes) -> None:
    """A file that does not parse is an error that names it."""
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=re.escape(str(file))):
        config.load(file)


def test_byte_order_mark_is_ignored(file: Path) -> None:
    """Editors on Windows put one at the beginning."""
    file.write_bytes(b"\xef\xbb\xbf" + LEAST.encode())
    assert config.load(file).endpoint.base_url == "https://loyalty.example.com/partner"


def test_section_that_is_a_value_is_named(file: Path) -> None:
    """A key where a section belongs is an error, not a bug."""
    file.write_text("state = 1\n" + LEAST)
    with pytest.raises(ConfigError, match=re.escape("[state]")):
        config.load(file)


@pytest.mark.parametrize(
    ("kind", "variable"),
    [("bearer", "CONSENT_SYNC__ENDPOINT__AUTH__BEARER"), ("password", "CONSENT_SYNC__ENDPOINT__AUTH__PASSWORD")],
)
@pytest.mark.parametrize("empty", [False, True])
def test_auth_without_its_secret_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, kind: str, variable: str, empty: bool
) -> None:
    """The error names where the secret is to come from; an empty one is none."""
    if empty:
        monkeypatch.setenv(variable, "")
    said = wrong(file, f'[endpoint.auth]\nkind = "{kind}"\nusername = "robot"\n')
    assert f'[endpoint.auth] kind = "{kind}" needs {variable}, or {variable}_FILE.' in said


def test_password_without_a_user_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The error names the key."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__PASSWORD", "hush")
    said = wrong(file, '[endpoint.auth]\nkind = "password"\n')
    assert 'kind = "password" needs username' in said
    assert "hush" not in said


@pytest.mark.parametrize("path", ["ManagerLogin", "", "/Manager Login", "/login?a=1", "/login#a", "https://x/login"])
def test_login_path_that_is_no_path_is_refused(file: Path, path: str) -> None:
    """It is put behind base_url as it stands."""
    assert "[endpoint.auth] login_path: not the path" in wrong(file, f'[endpoint.auth]\nlogin_path = "{path}"\n')


def test_bearer_with_a_line_end_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would begin another header; the error does not show it."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__AUTH__BEARER", "hush\r\nX: y")
    said = wrong(file, '[endpoint.auth]\nkind = "bearer"\n')
    assert "CONSENT_SYNC__ENDPOINT__AUTH__BEARER has a line's end" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("headers", "said"),
    [
        ('{ "X Tenant" = "1" }', "'X Tenant' is no name of a header"),
        ('{ "" = "1" }', "'' is no name of a header"),
        ('{ X-Tenant = "1\\r\\nX: y" }', "the value of X-Tenant has a line's end"),
        ('{ X-Tenant = "1", x-tenant = "2" }', "x-tenant is there twice"),
        *(
            (f'{{ {name} = "1" }}', f"{name} is written by consent-sync itself")
            for name in ("Host", "content-length", "Content-Type", "ACCEPT", "Authorization", "Connection")
        ),
        ('{ Transfer-Encoding = "1" }', "Transfer-Encoding is written by consent-sync itself"),
        ('{ Proxy-Authorization = "1" }', "Proxy-Authorization is written by consent-sync itself"),
    ],
)
def test_header_that_cannot_be_is_refused(file: Path, headers: str, said: str) -> None:
    """The error names the header and why."""
    assert f"[endpoint] headers: {said}" in wrong(file, f"headers = {headers}\n")


def test_headers_are_kept_as_written(file: Path) -> None:
    """Their names keep their case."""
    file.write_text(LEAST + '[endpoint.headers]\nX-Tenant = "a b"\n')
    assert config.load(file).endpoint.headers == {"X-Tenant": "a b"}


def secret_headers(file: Path, names: str) -> dict[str, str]:
    """Return the secret headers with their values."""
    file.write_text(f"{LEAST}secret_headers = {names}\n")
    settings = config.load(file)
    assert "hush" not in repr(settings)
    return {one.name: one.value.get_secret_value() for one in settings.endpoint.secret_headers}


def test_secret_headers_get_their_values_from_the_environment(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A variable, or a file that it names; a header that ends in -File is a header like any other."""
    (tmp_path / "secret").write_text("hush from a file\n")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_API_KEY", "hush")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_TENANT_FILE", str(tmp_path / "secret"))
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_API_KEY_FILE", "hush, a header")
    assert secret_headers(file, '["X-Api-Key", "X-Tenant", "X-Api-Key-File"]') == {
        "X-Api-Key": "hush",
        "X-Tenant": "hush from a file",
        "X-Api-Key-File": "hush, a header",
    }


def test_names_of_secret_headers_may_come_from_the_environment(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A list is written with commas, as any."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS", "X-A, X-B")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_A", "hush")
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_B", "hush")
    assert secret_headers(file, "[]") == {"X-A": "hush", "X-B": "hush"}


@pytest.mark.parametrize("value", [None, ""])
def test_secret_header_without_a_value_is_refused(
    file: Path, monkeypatch: pytest.MonkeyPatch, value: str | None
) -> None:
    """The error names the variable."""
    variable = "CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_API_KEY"
    if value is not None:
        monkeypatch.setenv(variable, value)
    said = wrong(file, 'secret_headers = ["X-Api-Key"]\n')
    assert f"[endpoint] secret_headers: X-Api-Key needs {variable}, or {variable}_FILE." in said


def test_secret_header_that_nobody_named_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever set the variable relies on it."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_KEY", "hush")
    said = wrong(file)
    assert "CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_KEY belongs to no header" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ('["Authorization"]', "Authorization is written by consent-sync itself"),
        ('["X Key"]', "'X Key' is no name of a header"),
        ('["X.Key"]', "'X.Key' has no variable of its own"),
        ('["X-Key", "X_Key"]', "'X_Key' has no variable of its own"),
        ('["X-Key", "x-key"]', "x-key is there twice"),
        ('["X-Tenant"]\nheaders = { x-tenant = "1" }', "X-Tenant is there twice"),
        ('{ X-Key = "hush" }', 'not a list of names, as ["X-Api-Key"]; values come from'),
        ("[1]", "not a list of names"),
    ],
)
def test_secret_header_that_cannot_be_is_refused(file: Path, names: str, said: str) -> None:
    """The error names the key and why, and repeats no value."""
    found = wrong(file, f"secret_headers = {names}\n")
    assert f"[endpoint] secret_headers: {said}" in found
    assert "hush" not in found


def test_secret_header_with_a_line_end_is_refused(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would begin another header; the error does not show it."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_KEY", "hush\nX: y")
    said = wrong(file, 'secret_headers = ["X-Key"]\n')
    assert "CONSENT_SYNC__ENDPOINT__SECRET_HEADERS__X_KEY has a line's end" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("proxy", "said"),
    [
        ("https://proxy.example.com:3128", "not of the form http://host:port"),
        ("proxy.example.com:3128", "not of the form http://host:port"),
        ("http://proxy.example.com", "not of the form http://host:port"),
        ("http://proxy.example.com:port", "the port is no number"),
        ("http://user:hush@proxy.example.com:3128", "set CONSENT_SYNC__ENDPOINT__PROXY_AUTH to user:password"),
        ("http://proxy.example.com:3128/x", "a proxy's address ends with its port"),
    ],
)
def test_proxy_that_is_no_plain_address_is_refused(file: Path, proxy: str, said: str) -> None:
    """The error names the key, and shows no credentials."""
    found = wrong(file, f'proxy = "{proxy}"\n')
    assert "[endpoint] proxy: " in found
    assert said in found
    assert "hush" not in found


@pytest.mark.parametrize("value", ["hush", "hush:\n"])
def test_proxy_credentials_of_another_form_are_refused(file: Path, monkeypatch: pytest.MonkeyPatch, value: str) -> None:
    """The error does not show them."""
    monkeypatch.setenv("CONSENT_SYNC__ENDPOINT__PROXY_AUTH", value)
    said = wrong(file, 'proxy = "http://proxy.example.com:3128"\n')
    assert "CONSENT_SYNC__ENDPOINT__PROXY_AUTH is not of the form user:password" in said
    assert "hush" not in said


@pytest.mark.parametrize(
    ("url", "proxy"),
    [
        ("http://loyalty.example.com", ""),
        ("http://10.0.0.1", ""),
        ("http://127.1", ""),
        ("http://localhost.example.com", ""),
        ("http://127.0.0.1", "http://proxy.example.com:3128"),
    ],
)
def test_plain_http_to_elsewhere_must_be_allowed(file: Path, url: str, proxy: str) -> None:
    """The error says why, and how; with the key it loads."""
    file.write_text(LEAST.replace("https://loyalty.example.com/partner", url) + f'proxy = "{proxy}"\n')
    with pytest.raises(ConfigError, match=r"is plain http, so that .* allow_plain_http = true"):
        config.load(file)
    file.write_text(file.read_text() + "allow_plain_http = true\n")
    assert config.load(file).endpoint.in_the_clear


@pytest.mark.parametrize("host", ["127.0.0.1:8089", "127.8.9.1", "[::1]:80", "localhost:8089"])
def test_plain_http_on_loopback_needs_no_permission(file: Path, host: str) -> None:
    """Nothing leaves the machine."""
    assert not with_url(file, f"http://{host}").endpoint.in_the_clear


def test_tls_paths_are_relative_to_the_file(file: Path, tmp_path: Path) -> None:
    """As the others are; "" in the environment takes one back."""
    file.write_text(LEAST + '[endpoint.tls]\nca = "ca.pem"\ncertificate = "../client.pem"\nkey = "/etc/key"\n')
    found = config.load(file, endpoint={"tls": {"ca": ""}}).endpoint.tls
    assert (found.ca, found.certificate, found.key) == (None, tmp_path.parent / "client.pem", Path("/etc/key"))
    assert config.load(file).endpoint.tls.ca == tmp_path / "ca.pem"


def test_key_without_a_certificate_is_refused(file: Path) -> None:
    """A key alone says nothing."""
    assert "[endpoint.tls] key needs certificate" in wrong(file, '[endpoint.tls]\nkey = "client.key"\n')


def test_what_cells_mean_is_read(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens of all channels and of one, inverted columns, thousands, and which rows count; lists also with commas."""
    more = (
        'inverted = ["AllowPush"]\nthousands = " "\n[export.where]\nOperator = 3\nCountry = ["RU", "KZ"]\n'
        '[export.values]\nallowed = ["on"]\n[export.values.AllowSms]\ndenied = ["N/A"]\n'
    )
    monkeypatch.setenv("CONSENT_SYNC__EXPORT__VALUES__NOTHING", "unknown, NULL")
    found = with_export(file, "none", more).export
    assert found.where == {"Operator": 3, "Country": ("RU", "KZ")}
    assert found.values.allowed == ("on",)
    assert found.values.nothing == ("unknown", "NULL")
    assert found.values.AllowSms == {"denied": ("N/A",)}
    assert (found.inverted, found.thousands) == (("AllowPush",), " ")


@pytest.mark.parametrize(
    ("more", "why"),
    [
        ('[export.values]\nallowed = ["x"]\ndenied = ["X"]\n', "'x' says both allowed and denied"),
        ('[export.values.AllowSms]\nallowed = ["no"]\n', "'no' says denied everywhere and is never made an allowed"),
        ('inverted = ["AllowSms"]\n[export.values.AllowSms]\nallowed = ["x"]\n', "in a column that is inverted"),
        ('inverted = ["DoNotCall"]\n', "'DoNotCall' is no channel"),
        ("[export.where]\nActive = true\n", "where"),
        ("[export.where]\nOperator = []\n", "'Operator' needs a value, or a list of values"),
        ('thousands = "."\n', "thousands"),
    ],
)
def test_what_cells_cannot_mean_is_refused(file: Path, more: str, why: str) -> None:
    """Before anything is read: a wrong meaning would be a wrong consent."""
    with pytest.raises(ConfigError, match=re.escape(why)):
        with_export(file, "none", more)
