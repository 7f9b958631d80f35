"""What the help texts of all commands share."""


def examples(*lines: str) -> str:
    """The examples at the end of a help text, each without `pierhead`."""
    # \b: click leaves the paragraph as it is.
    return "\b\nExamples:\n" + "\n".join(f"  pierhead {line}" for line in lines)
