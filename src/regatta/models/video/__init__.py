"""Video classifiers, one registered function per file."""
