"""Regatta races models: same data, same budget, same judges."""

__version__ = "0.1.0"
