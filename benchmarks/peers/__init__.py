"""What a user would serve the same model with instead, and the floor: the same server without a model."""
