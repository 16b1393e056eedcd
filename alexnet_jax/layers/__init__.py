"""Layers: they know nothing of configs, training or data."""
