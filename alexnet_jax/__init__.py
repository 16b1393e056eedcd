"""AlexNet (Krizhevsky, Sutskever and Hinton, NIPS 2012) in JAX: two columns, two accelerators."""
