"""Floor 5: figures, tables and one page made from a comparison. Never imports torch."""
