"""Floor 3: protocols, and judging trained runs under them in one decode pass."""
