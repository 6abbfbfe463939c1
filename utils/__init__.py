"""dnn2brain: which tasks explain the visual cortex? The library behind the four figure scripts and the commands."""

__version__ = "0.1.0"


class InputError(ValueError):
    """Something that the user handed in cannot be used.

    The message is one line that names what was found and where, what was expected, and what to do.
    The command line prints it to stderr and exits with status 2.
    """
