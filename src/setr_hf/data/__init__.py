"""Any data set to photographs and class ids; training examples and augmentation."""
