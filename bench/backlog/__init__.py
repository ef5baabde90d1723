"""G14 measured: what a claim costs in front of long backlogs. `python -m bench.backlog`; see docs/backlog.md."""
