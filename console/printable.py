"""Text from the wire or from a task, made safe to show: on one line, and with no control codes for the terminal."""


def printable(text: str, *, at_most: int | None = None) -> str:
    """The text with what cannot be printed (control characters, changes of direction) as ``\\x1b`` and the like.

    Text longer than ``at_most`` characters is cut, and ends with an ellipsis.
    """
    if at_most is not None and len(text) > at_most:
        text = text[: at_most - 1] + "…"
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
