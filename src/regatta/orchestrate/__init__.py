"""Floor 5: plans, places, starts and watches the tasks of a study. Never imports torch."""
