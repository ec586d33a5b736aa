"""`python -m sync_job` is the command `consent-sync`."""

from sync_job.cli import main

main()
