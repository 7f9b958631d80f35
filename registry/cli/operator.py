"""Who runs a command."""

import os
import pwd


def operator_name() -> str:
    """The name of whoever runs the command, for people to read: it proves nothing."""
    if name := os.environ.get("SUDO_USER"):
        return name
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())
