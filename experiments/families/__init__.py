"""Compare the families of models: `python -m experiments.families`."""
