"""A Hub on localhost with revisions, for tests that read data sets; it records its requests."""

import contextlib
import os
import re
import threading
from concurrent.futures import Executor, ProcessPoolExecutor
from http.server import ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import unquote

from local_upload_hub import REPO, UploadHub


REVISION_ROUTE = re.compile(
    rf"(?P<start>(/api)?/datasets/){REPO}(?P<route>/(tree|revision|paths-info|resolve)/)(?P<revision>[^/?]+)"
)


class RevisionHub(UploadHub):
    """Repositories are folders `owner/name` in `root`, at other revisions `owner/name@refs_convert_parquet`."""

    requests: list[str]

    def handle_request(self):
        self.requests.append(f"{self.command} {self.path}")
        match = REVISION_ROUTE.match(self.path)
        if match:
            folder = self.folder_of(match["repo"], unquote(match["revision"]))
            if folder is None:
                return self.refuse(404, "RevisionNotFound" if (self.root / match["repo"]).exists() else "RepoNotFound")
            self.path = f"{match['start']}{folder}{match['route']}main{self.path[match.end() :]}"
        return super().handle_request()

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def folder_of(self, repo: str, revision: str) -> str | None:
        """The folder of a branch, or of the last commit of one."""
        owner, name = repo.split("/")
        folders = [f"{owner}/{path.name}" for path in (self.root / owner).glob(f"{name}*")]
        wanted = repo if revision == "main" else f"{repo}@{revision.replace('/', '_')}"
        return next((folder for folder in folders if wanted == folder or revision == self.revision(folder)), None)


@contextlib.contextmanager
def local_hub(root: Path, cache: Path):
    """
    A process in which `huggingface_hub` and `datasets`, which read its address on import, talk to a Hub with the
    repositories in `root`; and the list of its requests. `submit(function, …).result()` runs there.
    """
    handler = type("Handler", (RevisionHub,), {"root": root, "private": set(), "requests": []})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    try:
        with hub_process(cache, HF_ENDPOINT=address) as process:
            yield process, handler.requests
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def hub_process(cache: Path, **variables: str) -> Executor:
    """A process with its own cache of the Hub and these environment variables."""
    variables |= {"HF_HOME": str(cache), "HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            process.submit(int).result()
            yield process
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
