"""Floor 4: one process that prepares data, trains one run or judges several; joins data, models,
training, evaluation."""
