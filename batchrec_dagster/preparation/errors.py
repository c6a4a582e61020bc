"""What keeps files from becoming interactions."""


class PreparationError(Exception):
    """The files cannot be used; one line that names file, line or setting, and the mend."""
