"""The exceptions of the project: a mistake that a user can mend, and a stop that was asked for."""


class UsageError(ValueError):
    """A mistake in the input: the message says what, where and what to do.

    ``siamjax.cli.run`` prints the message alone and exits with status 1; in a notebook it is an
    ordinary ``ValueError``.
    """


class Interrupted(SystemExit):
    """Ctrl-C or SIGTERM after which everything was saved; the status is 128 + the signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(128 + signum)
        self.message = message
