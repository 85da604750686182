"""Other people's weights to ours and back; encoder starts."""
