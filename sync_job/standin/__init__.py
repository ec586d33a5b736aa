"""A local stand-in of the loyalty platform: the endpoint's contract, members with flags, and faults on demand.

It imports nothing of the rest of `sync_job`, so that it cannot share the sender's mistakes.
"""
