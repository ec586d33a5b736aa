"""What is kept on disk: snapshot, plan, journal, ledger, lock. Every durable operation goes through `files`."""
