"""Pictures of what a model does. Nothing here is imported by training."""
