"""AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012) in JAX: two columns, two accelerators."""

from alexnet_jax.environment import check_versions

check_versions()
