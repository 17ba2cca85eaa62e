"""What a model costs, and how it is trained. Nothing here is imported by training."""
