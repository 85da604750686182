"""Jobs and Python code in forks of a process that has imported what they need, which takes seconds, once.

`python forked_jobs.py serve SOCKET` is that process. `python forked_jobs.py run SOCKET JOB OPTIONS …` stands for
`setr-hf JOB OPTIONS …`, with what SETR_HF_MORE_OPTIONS holds for the job, as JSON, behind its options.
"""

import json
import os
import socket
import subprocess
import sys
import time
import traceback
from contextlib import contextmanager


def run_in_fork(address: str, arguments: list[str], code: str | None = None) -> int:
    """Runs a job, or Python code, with this process's folder, variables and standard files; returns its status."""
    request = {"arguments": arguments, "code": code, "folder": os.getcwd(), "variables": dict(os.environ)}
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(address)
        content = json.dumps(request).encode()
        socket.send_fds(connection, [len(content).to_bytes(8, "big")], [0, 1, 2])
        connection.sendall(content)
        answer = connection.recv(1)
    return answer[0] if answer else 1


def received(connection: socket.socket) -> tuple[dict, list[int]]:
    size, files, _, _ = socket.recv_fds(connection, 8, 3)
    content = b""
    while len(content) < int.from_bytes(size, "big"):
        content += connection.recv(2**16)
    return json.loads(content), files


def status_of(request: dict) -> int:
    import setr_hf_cli

    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["variables"])
    sys.path.insert(0, request["folder"])
    try:
        if request["code"] is not None:
            exec(compile(request["code"], "<block>", "exec"), {"__name__": "__main__"})
            return 0
        sys.argv = ["setr-hf", *request["arguments"]]
        return setr_hf_cli.main()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:
        traceback.print_exc()
        return 1


def answer(connection: socket.socket) -> None:
    """What a fork does."""
    request, files = received(connection)
    for number, file in enumerate(files):
        os.dup2(file, number)
    status = status_of(request)
    sys.stdout.flush()
    sys.stderr.flush()
    connection.sendall(bytes([status]))


def serve(address: str) -> None:
    import setr_hf
    import setr_hf_cli

    for name in setr_hf.LATER:
        getattr(setr_hf, name)
    for script in setr_hf_cli.find_scripts().values():
        setr_hf_cli.load_script(script)  # What jobs import; each loads its own anew.
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        while True:
            connection, _ = listener.accept()
            with connection:
                if os.fork() == 0:
                    try:
                        answer(connection)
                    finally:
                        os._exit(0)
            while any_ended():
                pass


def any_ended() -> bool:
    try:
        return os.waitpid(-1, os.WNOHANG)[0] != 0
    except ChildProcessError:
        return False


@contextmanager
def forking_process(address: str, variables: dict[str, str]):
    """A process that serves at this address, with these environment variables besides this one's."""
    process = subprocess.Popen([sys.executable, __file__, "serve", address], env={**os.environ, **variables})
    try:
        while not os.path.exists(address):
            assert process.poll() is None, "the process has ended"
            time.sleep(0.05)
        yield
    finally:
        process.terminate()
        process.wait()


if __name__ == "__main__":
    if sys.argv[1] == "serve":
        serve(sys.argv[2])
    more = json.loads(os.environ.get("SETR_HF_MORE_OPTIONS", "{}"))
    sys.exit(run_in_fork(sys.argv[2], sys.argv[3:] + more.get(sys.argv[3] if sys.argv[3:] else "", [])))
