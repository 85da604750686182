"""What is the user's to mend."""

from .text import one_line


class SetrError(ValueError):
    """A mistake in what a user passed: a file, a folder, an option, a data set. The message names the offending value
    and says what to do, and is always one printable line, whatever the names in it hold. Jobs print it; any other
    exception is a bug and keeps its traceback.
    """

    def __init__(self, message: object):
        super().__init__(one_line(message))
