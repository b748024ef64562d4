"""The project's exceptions: a mistake that the user can fix, and an interruption."""

_LONGEST = 300  # characters of a text that comes from the input
_LONGEST_MESSAGE = 1500
_JOINERS = "\u200c\u200d"  # not printable, and part of Persian words and of emoji


class UsageError(ValueError):
    """A mistake in the input; the message says what is wrong, where, and what to do.

    The message is one line of printable text, whatever names and values it holds.
    ``siamjax.cli.run`` prints only the message and exits with status 1; in a notebook this is an
    ordinary ``ValueError``.
    """

    def __init__(self, message: str) -> None:
        super().__init__(shown(message, longest=_LONGEST_MESSAGE))


class Hung(UsageError):
    """A read that does not end. Its thread would keep Python from ending: ``cli`` ends at once."""


class Interrupted(SystemExit):
    """Raised after Ctrl-C or SIGTERM when everything is saved; exits with 128 + the signal."""

    def __init__(self, signum: int, message: str) -> None:
        super().__init__(128 + signum)
        self.message = message


def shown(text: object, *, longest: int = _LONGEST) -> str:
    r"""A text as it may be shown in a line: control characters as ``\x1b``, the middle left out.

    Line breaks of every kind, terminal escapes, marks that reverse the writing's direction and
    bytes of names that are not UTF-8 are shown by their codes; letters of all alphabets stay. Of
    more than ``longest`` characters the middle is left out.
    """
    try:
        whole = str(text)
    except Exception as error:  # a number of thousands of digits, or a class of the user's own
        whole = f"({type(text).__name__} that cannot be shown: {type(error).__name__})"
    if len(whole) > longest:
        half = (longest - 1) // 2
        whole = f"{whole[:half]}…{whole[-half:]}"
    return "".join(
        one
        if one.isprintable() or one in _JOINERS
        else one.encode("unicode_escape").decode("ascii")
        for one in whole
    )
