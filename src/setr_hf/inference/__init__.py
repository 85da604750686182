"""A photo to a label map to a picture."""
