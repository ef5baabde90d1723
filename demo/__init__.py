"""A CSV import whose worker is killed on the way: `python -m demo`, or `make demo`."""
