"""Image files and their pixels. It imports neither torch nor Detectron2: programs without them read images, too."""
