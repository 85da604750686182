"""The package's speed and memory beside other code that does the same."""
