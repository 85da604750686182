"""Writes and publishes data sets."""
