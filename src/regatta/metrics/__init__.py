"""Numbers from scores and labels; NumPy only."""
