"""Stacks that stay: processes that have imported and compiled what they need serve one run after the other.

    mr3d check --backend "exec:python tests/calibration/kept.py SOCKET"

Importing torch takes seconds, compiling its operators minutes, and each run of the suite begins three processes. `Kept` begins them
once; the command above only hands its stdin and stdout to the one that is free. Each conversation has a backend of its own.
"""

import copy
import os
import runpy
import socket
import subprocess
import sys
import threading
from pathlib import Path

LISTENER = 3  # file descriptor of a kept process


class Kept:
    """`count` processes of `python SCRIPT ARGUMENT ...`; they end with close(), and with this process."""

    def __init__(self, socket_path: Path, count: int, command: list[str], **popen):
        self.path = socket_path
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(socket_path))
        self.listener.listen(16)
        python, *words = command
        self.processes = [subprocess.Popen([python, __file__, "--stay", *words], stdin=subprocess.PIPE, stdout=sys.stderr,
                                           preexec_fn=lambda: os.dup2(self.listener.fileno(), LISTENER), pass_fds=[LISTENER], **popen) for _ in range(count)]

    def close(self):
        for process in self.processes:
            process.stdin.close()
            process.wait()
        self.listener.close()


def stay(words: list[str]):
    """The kept process: runs the stack's script, whose serve() is then called for each conversation."""
    threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()
    root = Path(__file__).resolve().parents[2]
    sys.path[:0] = [str(root / "tools" / "backends"), str(root / Path(words[0]).parent)]
    import mr3d_backend
    listener = socket.socket(fileno=LISTENER)

    def serve(backend, max_frame=mr3d_backend.MAX_FRAME):
        while True:
            connection, _ = listener.accept()
            _, handed, _, _ = socket.recv_fds(connection, 1, 2)
            status = b"0"
            try:
                with os.fdopen(handed[0], "rb") as stdin, os.fdopen(handed[1], "wb") as stdout:
                    mr3d_backend.converse(copy.deepcopy(backend), stdin, stdout, max_frame)
            except (mr3d_backend.Malformed, BrokenPipeError) as error:
                print(f"{backend.name}: {error}", file=sys.stderr)
                status = b"1"
            connection.sendall(status)
            connection.close()

    mr3d_backend.serve = serve
    sys.argv = words
    runpy.run_path(words[0], run_name="__main__")


def main():
    if sys.argv[1] == "--stay":
        stay(sys.argv[2:])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(sys.argv[1])
        socket.send_fds(connection, [b"x"], [0, 1])
        sys.exit(int(connection.recv(1) or b"1"))


if __name__ == "__main__":
    main()
