"""`python -m mho` is the command `mho`."""

from .cli import main

main()
