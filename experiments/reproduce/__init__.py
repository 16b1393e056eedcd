"""Run the claims of the papers that CIFAR-10 can test, and compare."""
