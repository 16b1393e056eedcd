"""Start, resume and collect many trainings."""
