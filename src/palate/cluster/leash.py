"""Becomes the command that it is given, which then ends with its parent; run as a file, by `keeper.py`.

    python leash.py PARENT COMMAND ...

A keeper can be killed at any instant, and what it keeps must not go on without it. Linux kills a process whose parent
has ended, if it asks for it. Ray blocks SIGINT in what it starts; a trainer has to hear it.
"""

import ctypes
import os
import signal
import sys

_SET_PARENT_DEATH_SIGNAL = 1  # of prctl(2)

if __name__ == "__main__":
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_SET_PARENT_DEATH_SIGNAL, signal.SIGKILL)
    if os.getppid() != int(sys.argv[1]):  # it was too late to ask
        sys.exit(1)
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    os.execvp(sys.argv[2], sys.argv[2:])
