"""Models: what computes logits from images. They know nothing of training or data."""
