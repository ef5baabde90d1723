"""The soak: a mixed load with faults, looked at over time, and a verdict: flat or growing. See docs/soak.md."""
