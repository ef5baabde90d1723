"""The benchmark: durably against a floor measured in the same run, and against its peers. See README.md."""
