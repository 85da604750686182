"""What is wrong with a data set or a model, before hours are spent on it, and what a bug report should hold."""
