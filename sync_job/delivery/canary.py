"""The first rows of an export's plan, sent one at a time: are all of them refused alike, it is not the rows. Pure."""

from sync_job.config import EndpointSettings

_CAUSES = {
    400: "[endpoint] format, token or operator, if the platform does not read what they make",
    404: "[endpoint] base_url: there is no such address on that server",
    405: "[endpoint] base_url: that address takes no POST",
    406: "[endpoint] format: the platform does not answer in it",
    413: "a proxy in between that takes no request so large",
    415: "[endpoint] format: the platform does not read it",
    422: "[endpoint] format, token or operator, if the platform does not read what they make",
}


def likely_cause(status: int | None, code: int | None, message: str, settings: EndpointSettings) -> str:
    """Return what was answered to all of the first rows, and which setting is the likely cause."""
    if code is None:
        return f"HTTP {status}: the likely cause is {_CAUSES.get(status or 0, 'base_url, or a proxy in between')}"
    said = f"ErrorCode {code}{f' ({message})' if message else ''}"
    if code in settings.not_found_codes:
        return f"{said}, which means no such client: [export.columns] Client names a column with other ids"
    return (
        f"{said}: the likely cause is [endpoint] operator, site_code or its token; or, if that is how the platform "
        "says that it does not know a client, a wrong column in [export.columns] Client"
    )
