"""How far ahead of this machine's clock a time may be. Pure."""

AHEAD_S = 15 * 60.0  # what clocks may differ by; a time that is further ahead comes from a clock that was wrong
