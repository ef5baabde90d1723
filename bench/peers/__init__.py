"""What is measured beside durably, each in an environment of its own; these files import nothing else of `bench`."""
