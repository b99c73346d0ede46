"""Names and messages as they may be printed."""


def printable(text: str) -> str:
    r"""Text on one line: newlines, control characters and bytes that are no text are written as escapes.

    File names may hold any of them, and a terminal obeys some.

    Example:
        >>> printable("Süd 1\n.jpg"), printable("\x1b[31m\udcff")
        ('Süd 1\\n.jpg', '\\x1b[31m\\udcff')
    """
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )


def first_line(error: Exception) -> str:
    """What a library's error says, short enough for one of ours."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
