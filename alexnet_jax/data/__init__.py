"""Images: from their source to batches."""
