"""The errors that are the user's to solve; everything else is a defect of ours."""


class InputError(ValueError):
    """Something the user gave is wrong. The message is complete: what, where, what is allowed."""


class NoMemoryError(InputError):
    """A device has not enough memory."""


class OutputError(RuntimeError):
    """A result cannot be written. The message names the file or folder and the reason."""


def told(error: BaseException) -> str:
    """What an error says, in one line, with its kind where that says more than its text."""
    text = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    text = " ".join(text.split())
    terse = (KeyError, IndexError, TypeError, AttributeError, AssertionError)
    return (
        f"{type(error).__name__}: {text}".rstrip(": ") if isinstance(error, terse) or not text else text
    )


def nearest(name: str, allowed: list[str]) -> str:
    """The end of a sentence about ``name``: the closest of ``allowed`` if there is one."""
    import difflib

    close = difflib.get_close_matches(name, allowed, n=1)
    return f"; did you mean {close[0]!r}?" if close else "."
