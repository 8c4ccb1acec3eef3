"""The one exception that means "the user can mend this"."""


class InputError(ValueError):
    """A mistake in the configuration, the logs or the paths.

    The message names the thing (key, column, file, row group) and the remedy. Jobs print it alone, without a stack
    trace, and exit with code 2; every other exception is a fault of the program and keeps its trace.
    """
