"""Decisions: values in, values out. No I/O, no clock, no chance; whoever asks brings what they need."""
