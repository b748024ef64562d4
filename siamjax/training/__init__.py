"""State, steps, checkpoints and the loop of every experiment."""
