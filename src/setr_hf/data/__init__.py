"""Any data set to photos and label maps; training examples and augmentation."""
