"""Real faults on real databases, with real worker processes: `make chaos`."""
