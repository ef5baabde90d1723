"""`python -m durably.cli`."""

from durably.cli import main

main()
