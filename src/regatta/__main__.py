"""`python -m regatta` is the same as `regatta`, and says so when its Python is too old for it."""

import signal
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

# Ctrl-C while all is still being loaded ends it without a trace of Python's; `main` listens then.
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

from regatta.cli.main import main

main()
