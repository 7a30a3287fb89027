"""Which ground is for training, validation and test."""
