"""Label maps against the truth: records, results, comparison, submissions."""
