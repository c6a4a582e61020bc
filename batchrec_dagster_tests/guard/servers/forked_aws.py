"""The `aws` command, which forks a process with an imported AWS CLI for each call.

The start of the AWS CLI takes a third of a second of CPU time, and the walkthrough calls it dozens
of times.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

# The command hands its arguments, environment, folder and open files to the server, and ends with
# the call's exit code.
CLIENT = """\
#!{python} -ISE
import json, os, socket, sys

server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
socket.send_fds(server, [b"!"], [0, 1, 2])
call = [sys.argv, dict(os.environ), os.getcwd()]
server.sendall(json.dumps(call).encode() + b"\\n")
sys.exit(int(server.recv(16) or 1))
"""


@contextmanager
def forked_aws() -> Iterator[Path]:
    """Yield a folder for the PATH with a command `aws` that works until the end of the block."""
    with tempfile.TemporaryDirectory() as place:
        folder, address = Path(place), f"{place}/socket"
        client = folder / "aws"
        client.write_text(CLIENT.format(python=sys.executable, address=address))
        client.chmod(0o755)
        server = subprocess.Popen(
            [sys.executable, "-m", __name__, address],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n", "the server of aws ended"
            yield folder
        finally:
            server.kill()
            server.communicate()


def _serve(address: str) -> None:
    """Fork a process for each call, until this process is killed."""
    importlib.import_module("awscli.clidriver")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        os.write(1, b"ready\n")
        while True:
            connection, _ = listener.accept()
            if not os.fork():
                _answer(connection)
            connection.close()
            with contextlib.suppress(ChildProcessError):
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass


def _answer(connection: socket.socket) -> NoReturn:
    """Run the call in this process, and answer with the call's exit code."""
    code = 1
    try:
        _, descriptors, _, _ = socket.recv_fds(connection, 1, 3)
        arguments, environment, folder = json.loads(connection.makefile().readline())
        for number, descriptor in enumerate(descriptors):
            os.dup2(descriptor, number)
            os.close(descriptor)
        # Importing the AWS CLI sets this variable to the folder of the CLI's data.
        data_path = os.environ["AWS_DATA_PATH"]
        os.environ.clear()
        os.environ.update(environment, AWS_DATA_PATH=data_path)
        os.chdir(folder)
        sys.argv = arguments
        code = importlib.import_module("awscli.clidriver").main()
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        # The reader of the call's output must not wait for this process.
        os.closerange(0, 3)
        connection.sendall(b"%d" % code)
        os._exit(0)


if __name__ == "__main__":
    _serve(sys.argv[1])
