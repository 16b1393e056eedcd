"""Weights in the files of other programs: what each holds, and nothing of training."""
