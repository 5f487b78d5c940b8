"""The one error that a user can cause, and how a script ends on it.

Everything a user can get wrong (a missing file, an unknown class, an unwritable folder) is
raised as `InputError` with one sentence: what was given, what is wrong, what to do next.
"""

import textwrap

ANOTHER_FOLDER = "another folder with RESULT_DIR (--result-dir)"


class InputError(Exception):
    """A user's mistake, in one sentence: what, where, what to do next; and the exit status."""

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status


def describe_error(error: Exception) -> str:
    """The first words of what a library says of an error, on one line."""
    return textwrap.shorten(str(error) or type(error).__name__, 100, placeholder=" ...")
