"""Figures of a run: the numbers, the plots and the command."""
