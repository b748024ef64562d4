"""The one exception for mistakes that a user can mend."""


class UsageError(ValueError):
    """A mistake in the input: the message says what, where and what to do.

    ``siamjax.cli.run`` prints the message alone and exits with status 1; in a notebook it is an
    ordinary ``ValueError``.
    """
