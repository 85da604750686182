"""What is the user's to mend."""


class SetrError(ValueError):
    """A mistake in what a user passed: a file, a folder, an option, a data set. The message names the offending value
    and says what to do. Jobs print it as one line; any other exception is a bug and keeps its traceback.
    """
