"""Floor 3: the shared trainer. `loop.train_run` trains one run, the other files are its parts."""
