"""Classifiers of sensor windows, one registered function per file."""
