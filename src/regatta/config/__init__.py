"""Floor 1: the typed study and its list of runs. Never imports torch."""
