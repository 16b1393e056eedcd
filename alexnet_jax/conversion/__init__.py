"""Weights in the files of other programs, and in this program's safetensors."""
