"""Reads a dump of the platform: what it holds today, in any format that exports have."""

from sync_job.config import ColumnSettings, Settings
from sync_job.consent.channels import FIELDS
from sync_job.consent.tables import Table
from sync_job.errors import ConfigError
from sync_job.exports import complete, loader
from sync_job.runs.watch import Watch


def read(settings: Settings, path: str, watch: Watch) -> Table:
    """Return what a dump of the platform says; its columns are the platform's own names, or those of the export.

    Raises:
        ExportError, ConfigError: when it cannot be read, or not every row of it.
    """
    watch.stage("reading the dump")
    own = ColumnSettings.model_validate({})
    # How exports are written says nothing of a dump either: it is found out, and has a header.
    found_out = {"encoding": "auto", "delimiter": "auto", "header": True, "comment": "", "final_newline": True}
    export = settings.export.model_copy(update=found_out | complete.NOT_ASKED | {"columns": own})
    names = loader.names(path, export)
    is_own = own.Client in names and bool(set(FIELDS) & set(names))
    if is_own:
        columns = own
    else:
        columns = settings.export.columns
        names = loader.names(path, export.model_copy(update={"columns": columns}))
    columns = columns.model_copy(update={"consent_changed_at": ""})
    columns = columns.model_copy(update={name: "" for name in FIELDS if getattr(columns, name) not in names})
    where = {name: value for name, value in settings.export.where.items() if name in names}
    # How old exports are and what blanks of theirs mean says nothing of a dump: there a blank is nothing.
    nothing = settings.export.blank.model_copy(update=dict.fromkeys(FIELDS, "nothing"))
    plain = {"columns": columns, "kind": "full", "as_of": "none", "blank": nothing, "id_map": None, "where": where}
    if is_own:  # a column of the platform's own name says what the platform says
        plain["inverted"] = ()
    found = loader.load(
        export.model_copy(update=plain),
        settings.run.zone,
        where=path,
        first_look=True,
        progress=watch.at,
    )
    if found.rejects:
        raise ConfigError(
            f"{path}: {found.rejects:,} rows of the dump cannot be read ({', '.join(list(found.reasons)[:3])}). "
            "What the platform holds must be known for sure: mend the dump."
        )
    return found.statements
