"""Data: sources of images, prepared images on disk, augmentation and batches."""
