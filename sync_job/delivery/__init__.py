"""Delivers changes to the endpoint: wire formats, one attempt, what an answer means, retry, the gate, the workers."""
