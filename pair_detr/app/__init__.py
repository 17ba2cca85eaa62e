"""A page in the browser to try a model: image in, detections and attention out."""
