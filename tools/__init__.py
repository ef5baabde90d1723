"""Programs of the repository: used by its tests and its demo, not part of the package."""
