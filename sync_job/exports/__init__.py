"""Reads exports into statements and rejects, in bounded blocks; what they lead to is others' to decide."""
