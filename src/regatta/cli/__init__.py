"""Floor 6: one file per verb. Verbs import what they need when they run, so that --help is
instant."""

import os
import signal
import sys

# The installed command loads this first. Ctrl-C while the rest is being loaded ends it without a
# trace of Python's, as in `python -m regatta`; `main` listens then.
if (
    os.path.basename(sys.argv[0] if sys.argv else "") == "regatta"
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
):
    signal.signal(signal.SIGINT, signal.SIG_DFL)
