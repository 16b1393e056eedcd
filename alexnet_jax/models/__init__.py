"""The network: it knows nothing of training or data."""
