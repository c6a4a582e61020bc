"""Amazon Personalize from the client's side."""
