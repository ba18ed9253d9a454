"""Floor 6: one file per verb. Verbs import what they need when they run, so that --help is
instant."""
