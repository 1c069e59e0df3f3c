"""Training by gradient steps: crops, the loop, members, checkpoints."""
