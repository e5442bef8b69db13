"""Training: the loop, its schedule, its checkpoints, and the tasks that it trains for."""
