"""A pipeline's assets: one function each, from the ratings file to the recommendations."""
