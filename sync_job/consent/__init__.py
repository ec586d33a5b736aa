"""The rules of consent: pure functions on bytes, with no file, clock or network in them."""
