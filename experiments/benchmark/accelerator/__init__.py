"""Measure training steps on an accelerator, beside PyTorch's and beside what the device allows."""
