"""Whether two configurations of one state read a list alike: the same clients, times and channels."""

from collections.abc import Iterator

from sync_job.config.sections import Settings

# What decides who is meant by a row of a list. How flags are written, and where the export is, is not of a list.
_EXPORT = ("id_map", "thousands")


def difference(one: Settings, other: Settings) -> str:
    """Return the first key that decides how a list is read and in which the two differ; "" if there is none."""
    return next(_differences(one, other), "")


def _differences(one: Settings, other: Settings) -> Iterator[str]:
    if one.endpoint.target != other.endpoint.target:
        yield "the target ([endpoint] base_url and operator)"
    for key in _EXPORT:
        if getattr(one.export, key) != getattr(other.export, key):
            yield f"[export] {key}"
    if one.export.columns.Client != other.export.columns.Client:
        yield "[export.columns] Client"
    if one.run.timezone != other.run.timezone:
        yield "[run] timezone"
    for key in type(one.withdrawals).model_fields:
        if getattr(one.withdrawals, key) != getattr(other.withdrawals, key):
            yield f"[withdrawals] {key}"
