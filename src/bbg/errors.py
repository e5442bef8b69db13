"""The one exception type of the package."""


class BbgError(ValueError):
    """A request `bbg` refuses.

    The message is one sentence that says what came, what is allowed and what to do. The command line prints it and
    exits with status 2.
    """
