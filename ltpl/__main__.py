"""`python -m ltpl` is the command `ltpl`."""

from ltpl.cli import main

main()
