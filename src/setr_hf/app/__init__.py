"""Segmentation in a web browser."""
