"""Watches what a command and all it starts make and open, by the kernel: ``watch([...], env=...)``.

Linux stops the command at every system call that makes a name in the file system or a socket, asks us
(seccomp's user notification, Linux 5.9), and goes on when it was written down. So it is seen whoever makes
it: Python, a toolkit's native code, a static program, a call that passes libc by. No root, no compiler and no
strace is needed. An Internet socket is written down and refused: the command has no network.

Not seen: what a service does that is asked over a Unix socket; writing into a file that stood there already
(no command is given any but its own).
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import platform
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PR_SET_NO_NEW_PRIVS, SET_MODE_FILTER, NEW_LISTENER = 38, 1, 8
RECEIVE, ANSWER, CONTINUE = 0xC0502100, 0xC0182101, 1
AT_FDCWD, O_CREAT = -100, 0o100
ALLOW, NOTIFY, KILL = 0x7FFF0000, 0x7FC00000, 0x80000000
LOAD, EQUAL, BITS, RETURN = 0x20, 0x15, 0x45, 0x06  # BPF: ld word, jeq, jset, ret
UNIX, NETLINK = 1, 16  # families that do not leave the machine


@dataclass(frozen=True)
class Call:
    """A system call: its number, where its path is among its arguments (after the folder's descriptor)."""

    number: int
    path: int | None
    folder: int | None = None
    flags: int | None = None  # the argument that must have O_CREAT for the call to make anything


# seccomp's own number, the kernel's name of the machine, and the calls that make a name or a socket.
MACHINES: dict[str, tuple[int, int, dict[str, Call]]] = {
    "x86_64": (
        317,
        0xC000003E,
        {
            "socket": Call(41, None), "io_uring_setup": Call(425, None), "open": Call(2, 0, flags=1),
            "openat": Call(257, 1, 0, flags=2), "openat2": Call(437, 1, 0), "creat": Call(85, 0),
            "mkdir": Call(83, 0), "mkdirat": Call(258, 1, 0), "mknod": Call(133, 0),
            "mknodat": Call(259, 1, 0), "rename": Call(82, 1), "renameat": Call(264, 3, 2),
            "renameat2": Call(316, 3, 2), "link": Call(86, 1), "linkat": Call(265, 3, 2),
            "symlink": Call(88, 1), "symlinkat": Call(266, 2, 1),
        },
    ),
    "aarch64": (
        277,
        0xC00000B7,
        {
            "socket": Call(198, None), "io_uring_setup": Call(425, None),
            "openat": Call(56, 1, 0, flags=2), "openat2": Call(437, 1, 0), "mkdirat": Call(34, 1, 0),
            "mknodat": Call(33, 1, 0), "renameat": Call(38, 3, 2), "renameat2": Call(276, 3, 2),
            "linkat": Call(37, 3, 2), "symlinkat": Call(36, 2, 1),
        },
    ),
}  # fmt: skip


class CannotWatch(Exception):
    """This system has no seccomp notifications, or does not let us have them."""


@dataclass
class Seen:
    """What was seen of a command."""

    code: int = 0
    output: str = ""
    made: set[str] = field(default_factory=set)
    """Absolute paths that were made, opened for making, or got by a rename or a link."""
    sockets: list[str] = field(default_factory=list)
    """Sockets that are neither Unix nor netlink, and rings that could open one unseen."""


def watch(command: Sequence[str], env: Mapping[str, str], cwd: Path, seconds: float = 600) -> Seen:
    """Run a command under watch, until it and all it started have ended.

    Raises:
        CannotWatch: not on this system; says why.
        TimeoutError: it did not end in time; all of it is killed.
    """
    if sys.platform != "linux" or platform.machine() not in MACHINES:
        raise CannotWatch(f"not written for {platform.system()} on {platform.machine()}")
    number, machine, calls = MACHINES[platform.machine()]
    ours, theirs = socket.socketpair()
    with ours, tempfile.TemporaryFile("w+", encoding="utf-8") as output:
        starter = [sys.executable, "-I", __file__, str(theirs.fileno()), str(number)]
        child = subprocess.Popen(
            [*starter, _program(machine, calls).hex(), *command], pass_fds=[theirs.fileno()], env=dict(env),
            cwd=cwd, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
        )  # fmt: skip
        theirs.close()
        message, descriptors, _, _ = socket.recv_fds(ours, 4, 1)
        if not descriptors:
            child.wait()
            raise CannotWatch(f"seccomp refuses: {os.strerror(*struct.unpack('i', message))}")
        seen = Seen()
        try:
            _listen(descriptors[0], calls, seen, child, time.monotonic() + seconds)
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.wait()
            os.close(descriptors[0])
        output.seek(0)
        seen.code, seen.output = child.returncode, output.read()
    return seen


def _start(back: int, number: int, program: bytes, command: Sequence[str]) -> None:
    """In a process of its own: put the filter on, hand its listener back, become the command."""
    made = _install(number, program)
    with socket.socket(fileno=back) as pair:
        socket.send_fds(pair, [struct.pack("i", max(0, -made))], [made] if made >= 0 else [])
    if made >= 0:
        os.close(made)
        os.execvp(command[0], list(command))


def _program(machine: int, calls: Mapping[str, Call]) -> bytes:
    """The filter: notify of these calls (of open and openat only with O_CREAT), allow every other."""
    notify = struct.pack("<HBBI", RETURN, 0, 0, NOTIFY)
    lines = [
        struct.pack("<HBBI", LOAD, 0, 0, 4),  # the machine: a call by another table would pass unseen
        struct.pack("<HBBI", EQUAL, 1, 0, machine),
        struct.pack("<HBBI", RETURN, 0, 0, KILL),
        struct.pack("<HBBI", LOAD, 0, 0, 0),  # the call's number
    ]
    for call in calls.values():
        if call.flags is None:
            lines += [struct.pack("<HBBI", EQUAL, 0, 1, call.number), notify]
        else:
            lines += [
                struct.pack("<HBBI", EQUAL, 0, 4, call.number),
                struct.pack("<HBBI", LOAD, 0, 0, 16 + 8 * call.flags),
                struct.pack("<HBBI", BITS, 0, 1, O_CREAT),
                notify,
                struct.pack("<HBBI", RETURN, 0, 0, ALLOW),
            ]
    return b"".join([*lines, struct.pack("<HBBI", RETURN, 0, 0, ALLOW)])


def _install(number: int, program: bytes) -> int:
    """Put the filter on this process for good; the listener's descriptor, or minus the error's number."""
    libc = ctypes.CDLL(None, use_errno=True)
    text = ctypes.create_string_buffer(program, len(program))
    whole = struct.pack("@HP", len(program) // 8, ctypes.addressof(text))
    if libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        return -ctypes.get_errno()
    made = libc.syscall(number, SET_MODE_FILTER, NEW_LISTENER, ctypes.c_char_p(whole))
    return made if made >= 0 else -ctypes.get_errno()


def _listen(
    listener: int, calls: Mapping[str, Call], seen: Seen, child: subprocess.Popen[bytes], until: float
) -> None:
    """Write down and answer every notification, until nobody is left who could make one."""
    by_number = {call.number: (name, call) for name, call in calls.items()}
    poll = select.poll()
    poll.register(listener, select.POLLIN)
    while True:
        if time.monotonic() > until:
            raise TimeoutError(f"{child.args!r} or what it started did not end in time")
        events = poll.poll(1000)
        if not events:
            continue
        if not events[0][1] & select.POLLIN:  # hung up: the last of them has ended
            return
        request = bytearray(80)
        try:
            fcntl.ioctl(listener, RECEIVE, request)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EINTR):  # the asker was killed meanwhile
                continue
            raise
        identity, thread, _, number, _, _, *arguments = struct.unpack("<QIIiIQ6Q", request)
        refusal = _note(*by_number[number], thread, arguments, seen)
        reply = struct.pack("<QqiI", identity, 0, -refusal, 0 if refusal else CONTINUE)
        with contextlib.suppress(FileNotFoundError):
            fcntl.ioctl(listener, ANSWER, reply)


def _note(name: str, call: Call, thread: int, arguments: Sequence[int], seen: Seen) -> int:
    """Write one call down; the error to answer it with, 0 to let it through."""
    if name == "socket":
        if arguments[0] in (UNIX, NETLINK):
            return 0
        seen.sockets.append(f"socket of family {arguments[0]} by {_program_of(thread)}")
        return errno.ENETUNREACH
    if name == "io_uring_setup":
        seen.sockets.append(f"io_uring by {_program_of(thread)}")
        return errno.EPERM
    assert call.path is not None
    if name == "openat2" and not struct.unpack("=Q", _memory(thread, arguments[2], 8))[0] & O_CREAT:
        return 0  # its flags are the first member of what its third argument points at
    text = _text(thread, arguments[call.path])
    folder = AT_FDCWD if call.folder is None else ctypes.c_int32(arguments[call.folder] & 0xFFFFFFFF).value
    base = Path(f"/proc/{thread}/cwd" if folder == AT_FDCWD else f"/proc/{thread}/fd/{folder}")
    made = os.path.normpath(text if text.startswith("/") else base.readlink() / text)
    if not (name.startswith(("mk", "link", "symlink")) and os.path.lexists(made)):  # else it fails: EEXIST
        seen.made.add(made)
    return 0


def _text(thread: int, address: int) -> str:
    """The string at an address of the process that asks; it stands still meanwhile."""
    found = b""
    while b"\0" not in found and len(found) < 4096:
        start = address + len(found)
        found += _memory(thread, start, 256 - start % 256)  # never across the end of a page
    return os.fsdecode(found.partition(b"\0")[0])


def _memory(thread: int, address: int, size: int) -> bytes:
    with Path(f"/proc/{thread}/mem").open("rb", buffering=0) as memory:
        memory.seek(address)
        return memory.read(size)


def _program_of(thread: int) -> str:
    return Path(f"/proc/{thread}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()


if __name__ == "__main__":
    _start(int(sys.argv[1]), int(sys.argv[2]), bytes.fromhex(sys.argv[3]), sys.argv[4:])
