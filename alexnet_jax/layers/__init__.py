"""Layers, as Flax modules and functions. They do not depend on configs, training or data."""
