"""The trainer, the recipes, and the train job's set-up."""
