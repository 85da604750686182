"""A Hub on localhost for models, data sets, Spaces and collections, with commits, branches and tags, that fails where
it is told to.

`running_hub()` yields a `LocalHub`: its `address` for HF_ENDPOINT, what was requested of it, and what it holds.
`local_hub(root, cache)` yields a process that talks to one, as `huggingface_hub` reads the address on import.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
from concurrent.futures import Executor, ProcessPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from multiprocessing import get_context
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlsplit


TOKEN = "hf_local"
USER = "me"
KINDS = {"models": "model", "datasets": "dataset", "spaces": "space"}
# Large or binary files that the Hub keeps in LFS.
LFS_SUFFIXES = (".safetensors", ".parquet", ".png", ".jpg", ".npy", ".bin", ".pt")
FAULTS = (401, 403, 404, 409, 412, 429, 500, "dropped before", "dropped after", "half read", "half sent")


def blob_id(content):
    """What git calls a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path):
    return path.endswith(LFS_SUFFIXES)


@dataclass
class Commit:
    parent: str | None
    title: str
    files: dict[str, bytes]

    @property
    def oid(self):
        parts = [str(self.parent), self.title, *(f"{path} {blob_id(self.files[path])}" for path in sorted(self.files))]
        return hashlib.sha1("\n".join(parts).encode()).hexdigest()


@dataclass
class Repository:
    """Commits by id, and what branches and tags point at, under names such as `refs/heads/main`."""

    private: bool = False
    commits: dict[str, Commit] = field(default_factory=dict)
    refs: dict[str, str] = field(default_factory=dict)

    def commit(self, files, title="initial commit", ref="refs/heads/main"):
        new = Commit(self.refs.get(ref), title, files)
        self.commits[new.oid] = new
        self.refs[ref] = new.oid
        return new.oid

    def find(self, revision):
        """The id of a commit by a branch, a tag or (the beginning of) itself; `None` if there is none."""
        for ref in (f"refs/heads/{revision}", f"refs/tags/{revision}", revision):
            if ref in self.refs:
                return self.refs[ref]
        return next((oid for oid in self.commits if len(revision) > 6 and oid.startswith(revision)), None)

    def history(self, revision="main"):
        """Commits from the newest to the first."""
        oid = self.find(revision)
        while oid is not None:
            yield oid, self.commits[oid]
            oid = self.commits[oid].parent

    def files(self, revision="main"):
        return self.commits[self.find(revision)].files


def read_folder(folder):
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


class LocalHub:
    """What a Hub holds. Folders `owner/name` in `root` are repositories of every kind from the beginning, and
    `owner/name@refs_convert_parquet` holds them at that revision.
    """

    def __init__(self, root=None):
        self.root = root
        self.address = ""
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.collections: dict[str, dict] = {}
        self.lfs: dict[str, bytes] = {}
        self.requests: list[str] = []
        # The number of a request, counted from 0, and how it goes wrong: one of FAULTS.
        self.fault: tuple[int, int | str] | None = None
        self.lock = threading.Lock()

    def clear_requests(self, fault=None):
        """Forgets the requests so far, so that they are counted from 0 again."""
        self.requests.clear()
        self.fault = fault

    def find(self, kind, name):
        """A repository, or `None`."""
        if (kind, name) not in self.repositories and self.root is not None and (self.root / name).is_dir():
            repository = self.repositories[kind, name] = Repository()
            repository.commit(read_folder(self.root / name))
            for folder in (self.root / name).parent.glob(f"{Path(name).name}@*"):
                repository.commit(read_folder(folder), ref=folder.name.partition("@")[2].replace("_", "/"))
        return self.repositories.get((kind, name))


class Refused(Exception):
    def __init__(self, status, code, **content):
        super().__init__(code)
        self.status, self.code, self.content = status, code, content


class Dropped(Exception):
    """The connection is closed without an answer."""


class Handler(BaseHTTPRequestHandler):
    """One connection; every answer is that of a route below."""

    hub: LocalHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body[: len(body) // 2] if self.fault == "half sent" else body)
        if self.fault == "half sent":
            self.close_connection = True

    def refuse(self, status, code, **content):
        self.answer({"error": code, **content}, status, X_Error_Code=code, X_Error_Message=code)

    def next_fault(self):
        hub = self.hub
        with hub.lock:
            number = len(hub.requests)
            hub.requests.append(f"{self.command} {self.path}")
        return hub.fault[1] if hub.fault is not None and hub.fault[0] == number else None

    def handle_request(self):
        length = int(self.headers.get("Content-Length") or 0)
        self.fault = self.next_fault()
        if self.fault == "half read":
            self.rfile.read(length // 2)
        if self.fault in ("half read", "dropped before"):
            self.close_connection = True
            return
        self.body = (
            self.read_chunks() if self.headers.get("Transfer-Encoding") == "chunked" else self.rfile.read(length)
        )
        if isinstance(self.fault, int):
            self.refuse(self.fault, "Injected", url=f"{self.hub.address}/{USER}/injected")
            return
        try:
            with self.hub.lock:
                content, headers = self.routed()
        except Refused as refusal:
            self.refuse(refusal.status, refusal.code, **refusal.content)
            return
        if self.fault == "dropped after":
            self.close_connection = True
            return
        self.answer(content, headers.pop("status", 200), **headers)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = handle_request

    def read_chunks(self):
        body = b""
        while size := int(self.rfile.readline(), 16):
            body += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return body

    def routed(self):
        parts = urlsplit(self.path)
        self.query = parse_qs(parts.query)
        for methods, pattern, route in ROUTES:
            match = re.fullmatch(pattern, parts.path)
            if match and self.command in methods:
                result = route(self, **{name: value and unquote(value) for name, value in match.groupdict().items()})
                return result if isinstance(result, tuple) else (result, {})
        raise Refused(404, "EntryNotFound")

    @property
    def is_user(self):
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def check_user(self):
        if not self.is_user:
            raise Refused(401, "InvalidToken")

    def repository(self, kind, repo, write=False):
        if write:
            self.check_user()
        found = self.hub.find(KINDS.get(kind or "models", kind), repo)
        if found is None or (found.private and not self.is_user):
            raise Refused(404 if self.is_user else 401, "RepoNotFound")
        return found

    def commit_of(self, repository, revision):
        oid = repository.find(revision)
        if oid is None:
            raise Refused(404, "RevisionNotFound")
        return oid, repository.commits[oid]

    def whoami(self):
        self.check_user()
        return {"name": USER, "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}}

    def create(self):
        self.check_user()
        request = json.loads(self.body)
        kind, name = request.get("type") or "model", f"{request.get('organization') or USER}/{request['name']}"
        url = f"{self.hub.address}/{'' if kind == 'model' else kind + 's/'}{name}"
        if self.hub.find(kind, name):
            raise Refused(409, f"You already created this {kind} repo", url=url)
        private = request.get("private") or request.get("visibility") == "private"
        self.hub.repositories[kind, name] = Repository(private=bool(private))
        self.hub.repositories[kind, name].commit({".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": url, "id": name}

    def delete_repository(self):
        self.check_user()
        request = json.loads(self.body)
        name = f"{request.get('organization') or USER}/{request['name']}"
        del self.hub.repositories[request.get("type") or "model", name]
        return {}

    def info(self, kind, repo, revision=None):
        repository = self.repository(kind, repo)
        oid, commit = self.commit_of(repository, revision or "main")
        facts = {"id": repo, "sha": oid, "private": repository.private, "gated": False, "disabled": False}
        facts |= {"tags": [], "downloads": 0, "likes": 0, "siblings": [{"rfilename": path} for path in commit.files]}
        return facts

    def entry(self, path, content):
        entry = {"type": "file", "path": path, "size": len(content), "oid": blob_id(content)}
        if is_lfs(path):
            entry["lfs"] = {"oid": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 134}
        return entry

    def folders(self, files):
        return sorted({parent.as_posix() for path in files for parent in Path(path).parents} - {"."})

    def tree(self, kind, repo, revision, folder=None):
        _, commit = self.commit_of(self.repository(kind, repo), revision)
        start = f"{folder}/" if folder else ""
        if folder and not any(path.startswith(start) for path in commit.files):
            raise Refused(404, "EntryNotFound")
        is_recursive = self.query.get("recursive", ["false"])[0].lower() in ("true", "1")
        entries = [self.entry(path, content) for path, content in commit.files.items()]
        entries += [
            {"type": "directory", "path": path, "size": 0, "oid": "0" * 40} for path in self.folders(commit.files)
        ]
        below = [entry for entry in entries if entry["path"].startswith(start)]
        return sorted(
            (entry for entry in below if is_recursive or "/" not in entry["path"][len(start) :]),
            key=lambda entry: entry["path"],
        )

    def paths_info(self, kind, repo, revision):
        _, commit = self.commit_of(self.repository(kind, repo), revision)
        is_json = self.body.startswith(b"{")
        paths = json.loads(self.body)["paths"] if is_json else parse_qs(self.body.decode())["paths"]
        folders = self.folders(commit.files)
        entries = [self.entry(path, commit.files[path]) for path in paths if path in commit.files]
        return entries + [{"type": "directory", "path": path, "oid": "0" * 40} for path in paths if path in folders]

    def refs(self, kind, repo):
        repository = self.repository(kind, repo)

        def listed(start):
            return [
                {"name": ref.removeprefix(start), "ref": ref, "targetCommit": oid}
                for ref, oid in repository.refs.items()
                if ref.startswith(start)
            ]

        return {"branches": listed("refs/heads/"), "tags": listed("refs/tags/"), "converts": listed("refs/convert/")}

    def commits(self, kind, repo, revision):
        repository = self.repository(kind, repo)
        self.commit_of(repository, revision)
        facts = {"message": "", "authors": [{"user": USER}], "date": "2026-01-01T00:00:00.000Z"}
        return [{"id": oid, "title": commit.title, **facts} for oid, commit in repository.history(revision)]

    def add_ref(self, kind, repo, place, revision):
        repository = self.repository(kind, repo, write=True)
        request = json.loads(self.body or b"{}")
        if place == "tag":
            name, start = f"refs/tags/{request['tag']}", revision
        else:
            name, start = f"refs/heads/{revision}", request.get("startingPoint") or "main"
        oid, _ = self.commit_of(repository, start)
        if name in repository.refs:
            raise Refused(409, "Reference exists already")
        repository.refs[name] = oid
        return {}

    def remove_ref(self, kind, repo, place, revision):
        repository = self.repository(kind, repo, write=True)
        name = f"refs/{'tags' if place == 'tag' else 'heads'}/{revision}"
        if repository.refs.pop(name, None) is None:
            raise Refused(404, "RevisionNotFound")
        return {}

    def resolve(self, kind, repo, revision, name):
        oid, commit = self.commit_of(self.repository(kind, repo), revision)
        if name not in commit.files:
            raise Refused(404, "EntryNotFound")
        content = commit.files[name]
        tag = hashlib.sha256(content).hexdigest() if is_lfs(name) else blob_id(content)
        headers = {"X_Repo_Commit": oid, "ETag": f'"{tag}"'}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return content, headers
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        return content[start : end + 1], {
            "status": 206,
            "Content_Range": f"bytes {start}-{end}/{len(content)}",
            **headers,
        }

    def validate_yaml(self):
        return {"errors": [], "warnings": []}

    def preupload(self, kind, repo, revision):
        _, commit = self.commit_of(self.repository(kind, repo, write=True), revision)
        files = []
        for file in json.loads(self.body)["files"]:
            path, known = file["path"], commit.files.get(file["path"])
            facts = {"path": path, "uploadMode": "lfs" if is_lfs(path) else "regular", "shouldIgnore": False}
            if known is not None:
                facts["oid"] = hashlib.sha256(known).hexdigest() if is_lfs(path) else blob_id(known)
            files.append(facts)
        return {"files": files}

    def lfs_batch(self, kind, repo):
        self.repository(kind, repo, write=True)
        objects = json.loads(self.body)["objects"]
        for item in objects:
            if item["oid"] not in self.hub.lfs:
                put = {"href": f"{self.hub.address}/lfs/{item['oid']}"}
                item["actions"] = {"upload": put, "verify": {"href": f"{self.hub.address}/lfs-verify"}}
        return {"transfer": "basic", "objects": objects}

    def lfs_put(self, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refused(400, "the content has another checksum")
        self.hub.lfs[oid] = self.body
        return {}

    def lfs_verify(self):
        if json.loads(self.body)["oid"] not in self.hub.lfs:
            raise Refused(404, "EntryNotFound")
        return {}

    def commit(self, kind, repo, revision):
        repository = self.repository(kind, repo, write=True)
        oid, last = self.commit_of(repository, revision)
        files, title = dict(last.files), ""
        for operation in map(json.loads, self.body.splitlines()):
            key, value = operation["key"], operation["value"]
            if key == "header":
                title = value["summary"]
                if value.get("parentCommit") not in (None, oid):
                    raise Refused(412, "the branch has another commit since")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                files[value["path"]] = self.hub.lfs[value["oid"]]
            elif key == "deletedFile":
                del files[value["path"]]
            elif key == "deletedFolder":
                files = {path: c for path, c in files.items() if not path.startswith(value["path"].rstrip("/") + "/")}
        new = repository.commit(files, title, f"refs/heads/{revision}")
        place = "" if kind == "models" else f"{kind}/"
        return {"success": True, "commitOid": new, "commitUrl": f"{self.hub.address}/{place}{repo}/commit/{new}"}

    def create_collection(self):
        self.check_user()
        request = json.loads(self.body)
        slug = f"{request['namespace']}/{re.sub(r'[^a-z0-9]+', '-', request['title'].lower())}-{'0' * 24}"
        if slug in self.hub.collections:
            raise Refused(409, "This collection exists already", slug=slug)
        owner = {"name": request["namespace"], "type": "user"}
        facts = {"slug": slug, "title": request["title"], "owner": owner, "items": [], "position": 0, "upvotes": 0}
        facts |= {"private": bool(request.get("private")), "description": request.get("description")}
        facts |= {"lastUpdated": "2026-01-01T00:00:00.000Z", "theme": "blue"}
        self.hub.collections[slug] = facts
        return facts

    def collection(self, slug):
        if slug not in self.hub.collections:
            raise Refused(404, "RepoNotFound")
        return self.hub.collections[slug]

    def add_to_collection(self, slug):
        self.check_user()
        collection, request = self.collection(slug), json.loads(self.body)
        item = request["item"]
        if any(known["id"] == item["id"] and known["type"] == item["type"] for known in collection["items"]):
            raise Refused(409, "This item is in the collection already")
        position = len(collection["items"])
        note = {"note": {"text": request["note"]}} if request.get("note") else {}
        collection["items"].append({"_id": str(position), "position": position, **item, **note})
        return collection


REPO = r"(?P<repo>[^/]+/[^/]+?)"
REVISION = r"(?P<revision>[^/]+)"
API = rf"/api/(?P<kind>models|datasets|spaces)/{REPO}"
PAGE = rf"/(?:(?P<kind>datasets|spaces)/)?{REPO}"
SLUG = r"(?P<slug>[^/]+/[^/]+)"
ROUTES = [
    ("GET", "/api/whoami-v2", Handler.whoami),
    ("POST", "/api/repos/create", Handler.create),
    ("DELETE", "/api/repos/delete", Handler.delete_repository),
    ("POST", "/api/validate-yaml", Handler.validate_yaml),
    ("POST", "/api/collections", Handler.create_collection),
    ("GET", rf"/api/collections/{SLUG}", Handler.collection),
    ("POST", rf"/api/collections/{SLUG}/items?", Handler.add_to_collection),
    ("GET", rf"{API}(/revision/{REVISION})?", Handler.info),
    ("GET", rf"{API}/tree/{REVISION}(/(?P<folder>.+))?", Handler.tree),
    ("POST", rf"{API}/paths-info/{REVISION}", Handler.paths_info),
    ("GET", rf"{API}/refs", Handler.refs),
    ("GET", rf"{API}/commits/{REVISION}", Handler.commits),
    ("POST", rf"{API}/(?P<place>tag|branch)/{REVISION}", Handler.add_ref),
    ("DELETE", rf"{API}/(?P<place>tag|branch)/{REVISION}", Handler.remove_ref),
    ("POST", rf"{API}/preupload/{REVISION}", Handler.preupload),
    ("POST", rf"{API}/commit/{REVISION}", Handler.commit),
    ("POST", rf"{PAGE}\.git/info/lfs/objects/batch", Handler.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", Handler.lfs_put),
    ("POST", r"/lfs-verify", Handler.lfs_verify),
    ("GET HEAD", rf"{PAGE}/resolve/{REVISION}/(?P<name>.+)", Handler.resolve),
]


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 64  # Downloads open many connections at once.


@contextlib.contextmanager
def running_hub(root: Path | None = None):
    """A `LocalHub` that answers at its `address`."""
    hub = LocalHub(root)
    server = Server(("127.0.0.1", 0), type("HubHandler", (Handler,), {"hub": hub}))
    hub.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def local_hub(root: Path, cache: Path):
    """A process that talks to a Hub with the repositories in `root`, and the list of its requests.
    `submit(function, …).result()` runs there.
    """
    with running_hub(root) as hub, hub_process(cache, HF_ENDPOINT=hub.address) as process:
        yield process, hub.requests


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
