"""What tests measure against: slow NumPy definitions, and tiny models and batches to feed both."""
