"""Other projects' checkpoints, read whole or refused."""
