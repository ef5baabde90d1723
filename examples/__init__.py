"""Applications that use durably, run by the tests."""
