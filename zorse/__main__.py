"""`python -m zorse`."""

from zorse.cli import main

main()
