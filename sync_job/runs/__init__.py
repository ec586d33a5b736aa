"""What can be done, one module each: they join the rooms below and hold the order of the steps."""
