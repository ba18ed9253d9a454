"""`python -m regatta` is the same as `regatta`, and says so when its Python is too old for it."""

import sys

if sys.version_info < (3, 11):
    # Before anything is imported, and in words that old versions can read.
    sys.stderr.write(
        "error: Regatta needs Python 3.11 or newer, this is %s\n"
        "  where: %s\n"
        "  next:  python3.11 -m venv .venv, then install Regatta there (make install)\n"
        % (".".join(str(part) for part in sys.version_info[:3]), sys.executable)
    )
    sys.exit(3)

from regatta.cli.main import main

main()
