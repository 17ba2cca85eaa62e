"""Training losses: tensors in, tensors out."""
