"""Floor 4: statistics over the prediction store, written to results/. Never imports torch."""
