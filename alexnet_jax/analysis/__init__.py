"""What can be said about a model and its training step; used by commands and experiments only."""
