"""What is measured in this project's own environment: durably, the floor under it, and the database alone."""
