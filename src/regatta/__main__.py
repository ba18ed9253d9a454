"""`python -m regatta` is the same as `regatta`."""

from regatta.cli.main import main

main()
