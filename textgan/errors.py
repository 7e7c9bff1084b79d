"""The one exception for what a user can mend."""


class UserError(ValueError):
    """A mistake in a file, an option or a config: the message is one or a few plain lines for the user.

    The message says what was given, what is allowed and what to do. The command line prints it without a
    traceback and exits with 1; library callers may catch it as a ``ValueError``.
    """
