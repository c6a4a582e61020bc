"""A pipeline's assets, from the ratings file to the recommendations. Each has its own function."""
