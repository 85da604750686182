"""Publishes models, and verifies what is published."""
