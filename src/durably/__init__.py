"""Durable jobs: steps that survive crashes, on the database you already have."""
