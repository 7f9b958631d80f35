"""Pierhead without root's right to read and write whatever it likes: `python -m tests.swap.unprivileged`."""

import os
import sys

COMMAND = [sys.executable, "-m", "registry", *sys.argv[1:]]
WITHOUT = "-dac_override,-dac_read_search"

if __name__ == "__main__":
    if os.geteuid() == 0:
        COMMAND = ["setpriv", f"--bounding-set={WITHOUT}", f"--inh-caps={WITHOUT}", *COMMAND]
    os.execvp(COMMAND[0], COMMAND)
