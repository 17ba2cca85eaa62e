"""What can go wrong with a file of weights."""


class ConversionError(ValueError):
    """Weights cannot be read, are of an unknown code base, or are not whole; the message says what to do."""
