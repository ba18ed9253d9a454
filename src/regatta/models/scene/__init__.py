"""Extractors of features of every frame, and the model that answers from them."""
