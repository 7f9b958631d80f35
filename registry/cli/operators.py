"""Who runs a command."""

import os
import pwd
from functools import cache


@cache
def operator_name() -> str:
    """Who runs the command, for people to read: it proves nothing.

    Asked first before a command becomes the owner of a store, it stays who it was.
    """
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
