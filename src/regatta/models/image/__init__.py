"""Image classifiers, one registered function per file."""
