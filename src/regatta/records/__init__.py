"""Floor 1: what is written on disk and read back: run folders, status, metrics, predictions. Never
imports torch."""
