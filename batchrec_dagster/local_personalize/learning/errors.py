"""What can go wrong in learning, as types."""


class TrainingError(ValueError):
    """The data or the hyperparameters cannot be trained; the message is fit for a user to read."""


class ModelFileError(Exception):
    """A saved model or saved interactions, missing, incomplete or damaged; names the file."""
