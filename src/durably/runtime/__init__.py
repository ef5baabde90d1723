"""Execution: workers, what a job's function gets, and whoever waits for events. Nothing here is public by itself."""
