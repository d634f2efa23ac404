"""Run as a program of its own by `sandbox.py`: a response's code and the tests for it, cut off from everything else.

    outer   reads the request, cuts itself off, starts the inner one, watches its time and its output, says what came
    inner   first of its own process namespace: limits itself, gives up all rights, runs code, then tests

Cut off means Linux namespaces: no network interface but a loopback that is down; a file system that holds Python's
standard library and the system's libraries, read-only, and an empty scratch directory in memory; no process in sight
but its own, all of which end with it. Neither needs root, where the system lets users make namespaces. Limits are the
kernel's resource limits. Imports nothing of ours, and nothing of what it runs is imported by us.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import resource
import secrets
import select
import signal
import sys
import sysconfig
import time
from typing import Any

NEW_NAMESPACES = 0x00020000 | 0x04000000 | 0x08000000 | 0x20000000 | 0x40000000  # mount, uts, ipc, pid, net
NEW_USER = 0x10000000
READ_ONLY, NO_SUID, NO_DEVICES, REMOUNT, BIND, RECURSIVE, PRIVATE = 1, 2, 4, 32, 4096, 16384, 1 << 18
CAP_LAST, NO_NEW_PRIVS, CAPBSET_DROP, DIE_WITH_PARENT = 63, 38, 24, 1
STRANGERS = 2_000_000_000
"""From here on user ids own nothing. Each sandbox takes one of its own, since processes are counted by user."""
SCRATCH, SCRATCH_BYTES = "/scratch", 16 << 20
MOST_PROCESSES = 8
_LIBC = ctypes.CDLL(None, use_errno=True)


def checked(result: int, what: str) -> None:
    """Raises:
    OSError: a call of the C library failed.
    """
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def mount(source: str, target: str, kind: str | None, flags: int, options: str = "") -> None:
    """As mount(2)."""
    names = (source.encode(), target.encode(), kind.encode() if kind else None)
    checked(_LIBC.mount(*names, ctypes.c_ulong(flags), options.encode() or None), f"mount of {source}")


def cut_off(stranger: int) -> None:
    """New namespaces for whatever this process starts, and a file system that holds nothing but libraries.

    Raises:
        OSError: the system does not allow it.
    """
    uid, gid = os.getuid(), os.getgid()
    checked(_LIBC.unshare(NEW_NAMESPACES | (NEW_USER if uid else 0)), "unshare")
    if uid:
        for name, line in (("setgroups", "deny"), ("uid_map", f"{uid} {uid} 1"), ("gid_map", f"{gid} {gid} 1")):
            with open(f"/proc/self/{name}", "w") as file:
                file.write(line)
    libraries = {sysconfig.get_path("stdlib"), sysconfig.get_path("platstdlib"), "/lib", "/lib64", "/usr/lib"}
    present = sorted(path for path in libraries if os.path.isdir(path))
    root = next(
        path
        for path in ("/mnt", "/tmp", "/srv")
        if os.path.isdir(path) and not any(each.startswith(path + "/") for each in present)
    )
    mount("none", "/", None, RECURSIVE | PRIVATE)
    mount("tmpfs", root, "tmpfs", NO_SUID | NO_DEVICES, f"size={SCRATCH_BYTES},mode=755")
    for path in present:
        os.makedirs(root + path, exist_ok=True)
        mount(path, root + path, None, BIND)
        mount(path, root + path, None, BIND | REMOUNT | READ_ONLY | NO_SUID | NO_DEVICES)
    os.mkdir(root + SCRATCH)
    if not uid:
        os.chown(root + SCRATCH, stranger, stranger)
    os.chroot(root)
    os.chdir(SCRATCH)


def limit(seconds: float, memory_mb: int, processes: int) -> None:
    """On everything that this process, and what it starts, may take."""
    limits = {
        resource.RLIMIT_CPU: math.ceil(seconds) + 1,
        resource.RLIMIT_AS: memory_mb << 20,
        resource.RLIMIT_NPROC: processes,
        resource.RLIMIT_FSIZE: SCRATCH_BYTES,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for name, value in limits.items():
        resource.setrlimit(name, (value, value))


def give_up_rights(stranger: int) -> None:
    """For good: of root, and of the owner of a namespace."""
    for capability in range(CAP_LAST + 1):
        _LIBC.prctl(CAPBSET_DROP, capability, 0, 0, 0)  # those that this kernel does not know are refused
    if os.getuid() == 0:
        os.setgroups([])
        os.setresgid(stranger, stranger, stranger)
        os.setresuid(stranger, stranger, stranger)
    header, none = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    checked(_LIBC.capset(header, none), "capset")
    checked(_LIBC.prctl(NO_NEW_PRIVS, 1, 0, 0, 0), "prctl")


def run(code: str, tests: str) -> str:
    """Execute one after the other in one module; why it failed, empty if it did not."""
    namespace: dict[str, Any] = {"__name__": "response"}
    for name, text in (("response", code), ("tests", tests)):
        try:
            exec(compile(text, f"<{name}>", "exec"), namespace)
        except BaseException as error:
            line = next(
                (
                    f" in line {step.tb_lineno}"
                    for step in [error.__traceback__ and error.__traceback__.tb_next]
                    if step
                ),
                "",
            )
            return f"the {name}{line}: {type(error).__name__}: {' '.join(str(error).split())}"[:200]
    return ""


def inner(asked: dict[str, Any], verdicts: int, output: int, password: str) -> None:
    """Never returns. The password goes with the verdict, so that a response that just ends has passed nothing."""
    os.setsid()
    os.dup2(os.open(os.devnull, os.O_RDONLY) if os.path.exists(os.devnull) else os.pipe()[0], 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.closerange(3, verdicts)
    os.closerange(verdicts + 1, 256)
    # a user's own limit counts all that the user runs, so outside a namespace there is no room to start anything
    limit(asked["seconds"], asked["memory_mb"], MOST_PROCESSES if asked["isolated"] else 1)
    if asked["isolated"]:
        give_up_rights(asked["stranger"])
    checked(_LIBC.prctl(DIE_WITH_PARENT, signal.SIGKILL, 0, 0, 0), "prctl")  # last: a change of rights would undo it
    own = os.getpid()
    reason = run(asked["code"], asked["tests"])
    if os.getpid() == own:  # and not a copy of it that the code made
        os.write(verdicts, json.dumps([password, reason]).encode())
    os._exit(0)


def outer(asked: dict[str, Any]) -> str:
    """Why the tests were not passed; empty if they were."""
    (from_verdicts, verdicts), (from_output, output) = os.pipe(), os.pipe()
    password = secrets.token_hex()
    child = os.fork()
    if not child:
        try:
            inner(asked, verdicts, output, password)
        finally:
            os._exit(1)
    os.close(verdicts)
    os.close(output)
    reason = watched(from_output, asked["seconds"], asked["output_bytes"])
    if not asked["isolated"]:
        _kill_group(child)
    os.kill(child, signal.SIGKILL)  # in a namespace all the others end with it
    _, status = os.waitpid(child, 0)
    if reason:
        return reason
    os.set_blocking(from_verdicts, False)
    try:
        told = json.loads(os.read(from_verdicts, 65536))
    except (OSError, ValueError):
        told = None
    if isinstance(told, list) and len(told) == 2 and told[0] == password:
        return str(told[1])
    how = os.waitstatus_to_exitcode(status)
    return f"ended before its tests did ({'exit status' if how >= 0 else 'signal'} {abs(how)})"


def watched(output: int, seconds: float, most: int) -> str:
    """Read what is written until nobody can write any more; why that had to be ended, empty if it had not."""
    ends, count = time.monotonic() + seconds, 0
    while (left := ends - time.monotonic()) > 0:
        if not select.select([output], [], [], left)[0]:
            break
        data = os.read(output, 65536)
        if not data:
            return ""
        count += len(data)
        if count > most:
            return f"wrote more than {most} bytes"
    return f"still running after {seconds:g} s"


def _kill_group(child: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)


def main() -> None:
    """A request as JSON in; out a list of [refused, reason]."""
    asked = json.load(sys.stdin) | {"stranger": STRANGERS + os.getpid()}
    if asked["isolated"]:
        try:
            cut_off(asked["stranger"])
        except (OSError, AttributeError) as error:
            json.dump([str(error), ""], sys.stdout)
            return
    json.dump(["", outer(asked)], sys.stdout)


if __name__ == "__main__":
    main()
