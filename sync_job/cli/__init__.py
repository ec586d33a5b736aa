"""Commands and options: the one place where errors become exit codes."""

from sync_job.cli.app import main

__all__ = ["main"]
