"""How each code base names the weights of its models."""
