"""Print the error tables of the papers: `python -m experiments.tables`."""
