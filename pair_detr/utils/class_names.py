"""How names of classes are compared."""

import re


def normalize_name(name: str) -> str:
    """A class name without what only spelling adds: case, and underscores or hyphens for spaces."""
    return re.sub(r"[\s_\-]+", " ", name).strip().casefold()
