"""Becomes the command that it is given, which then ends with its parent; run as a file.

    python leash.py PARENT SIGNAL COMMAND ...

A parent can be killed at any instant, and what it keeps must not go on without it. Linux sends a signal to a process
whose parent has ended, if it asks for it: SIGKILL, or SIGTERM to what has to end others first. Ray blocks SIGINT in
what it starts; a trainer has to hear it.
"""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, int(sys.argv[2]))
    if os.getppid() != int(sys.argv[1]):  # it was too late to ask
        sys.exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(sys.argv[3], sys.argv[3:])
