"""Endpoints as they come, in virtual time, and what a sender makes of their capacity."""
