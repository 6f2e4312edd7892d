"""From the images there are to the image that lacks: one file a family, and the registry."""
