"""Floor 0: errors, files, registry, seeds, signals. Knows nothing of studies, data or models."""
