"""Runs the command line: `python -m zorse`."""

from zorse.cli import main

main()
