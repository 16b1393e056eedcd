"""Recognize models in the layers of files, whatever the format."""
