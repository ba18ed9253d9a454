"""Models behind one contract: clips in, logits out."""
