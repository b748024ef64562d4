"""The project's exceptions: a mistake that the user can fix, and an interruption."""


class UsageError(ValueError):
    """A mistake in the input; the message says what is wrong, where, and what to do.

    ``siamjax.cli.run`` prints only the message and exits with status 1; in a notebook this is an
    ordinary ``ValueError``.
    """


class Interrupted(SystemExit):
    """Raised after Ctrl-C or SIGTERM when everything is saved; exits with 128 + the signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(128 + signum)
        self.message = message
