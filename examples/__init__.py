"""Applications that trigger runs in transactions of their own: Flask, FastAPI, Django."""
