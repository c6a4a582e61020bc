"""The client side of Amazon Personalize."""
