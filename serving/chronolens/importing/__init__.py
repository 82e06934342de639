"""Public checkpoints: what they are, how they are read, and how they become weights of ours."""
