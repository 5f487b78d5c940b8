"""The error that a user can cause: one sentence that says what is wrong and what to do."""

import textwrap

ANOTHER_FOLDER = "another result folder with --result-dir"


class InputError(Exception):
    """A user's mistake, described in one sentence, with the script's exit status.

    Missing files, unknown categories, unwritable folders and wrong options are all raised as this
    error; `utils.cli` prints the sentence instead of a traceback.
    """

    def __init__(self, sentence: str, status: int = 1):
        super().__init__(sentence)
        self.status = status


class Interrupted(KeyboardInterrupt):
    """Ctrl-C, or the signal `number`, during a run; the sentence says what is finished."""

    def __init__(self, sentence: str, *number: int):
        super().__init__(*number)
        self.sentence = sentence


def describe_error(error: Exception) -> str:
    """Return a library's error message on one line, at most 100 characters.

    >>> describe_error(FileNotFoundError(2, "No such file or directory", "a.csv"))
    'No such file or directory'
    """
    text = (isinstance(error, OSError) and error.strerror) or str(error)  # without its number
    return textwrap.shorten(text or type(error).__name__, 100, placeholder=" ...")
