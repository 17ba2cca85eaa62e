"""Pictures of images with what is in them: boxes, masks and labels, as annotated or as detected."""
