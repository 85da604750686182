"""The networks, their losses and the image processors; these files travel with every saved model."""
