"""Measure speed and memory, also of PyTorch for comparison."""
