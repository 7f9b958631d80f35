"""What our application and our server agree on beyond ASGI. Either works with others that do not know of it."""

PIECES = "pierhead.pieces"
"""The extension that hands over body pieces as they came: `async () -> (list of bytes, more)`."""


class AnswerBroken(Exception):
    """An answer that has begun can't be completed, for a reason that is in the log: cut the connection."""


class CannotStart(Exception):
    """What the configuration names can't be used: one line that says what to do."""
