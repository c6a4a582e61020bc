"""What can go wrong in learning, as types."""


class TrainingError(ValueError):
    """The data or the hyperparameters cannot be trained; the message is fit for a user to read."""


class ModelFileError(Exception):
    """A saved model is missing, incomplete or damaged; the message names the file."""
