"""Read and write state dicts of PyTorch programs."""
