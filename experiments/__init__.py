"""Experiments on top of alexnet_jax: figures and benchmarks."""
