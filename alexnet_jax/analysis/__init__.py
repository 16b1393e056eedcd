"""Analysis of models and training steps, for commands and experiments."""
