"""Generated scenes: a moving ball seen by several cameras."""
