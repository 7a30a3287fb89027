"""Division of the ground into training, validation and test."""
