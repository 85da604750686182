"""A Hub on localhost that takes and serves uploads of data sets, with the routes that `huggingface_hub` uses."""

import base64
import contextlib
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit


TOKEN = "hf_local"
REPO = r"(?P<repo>[^/]+/[^/]+?)"


class UploadHub(BaseHTTPRequestHandler):
    """Repositories are folders in `root`; `private` holds the names of the private ones."""

    root: Path
    private: set[str]

    def log_message(self, *arguments):
        pass

    def answer(self, content, status=200, **headers):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": len(body), **headers}.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def refuse(self, status, code):
        self.answer({"error": code}, status, X_Error_Code=code, X_Error_Message=code)

    def handle_request(self):
        self.body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = unquote(urlsplit(self.path).path)
        for method, pattern, route in ROUTES:
            match = re.fullmatch(pattern, path)
            if match and self.command in method:
                return route(self, **match.groupdict())
        return self.refuse(404, "EntryNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def whoami(self):
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.refuse(401, "InvalidToken")
        return self.answer({"name": "me", "type": "user", "orgs": [], "auth": {"accessToken": {"role": "write"}}})

    def create(self):
        request = json.loads(self.body)
        repo = f"{request.get('organization') or 'me'}/{request['name']}"
        url = f"http://{self.headers['Host']}/datasets/{repo}"
        if (self.root / repo).exists():
            return self.answer({"error": "You already created this dataset repo", "url": url}, 409)
        (self.root / repo).mkdir(parents=True)
        if request.get("private") or request.get("visibility") == "private":
            self.private.add(repo)
        return self.answer({"url": url})

    def files(self, repo):
        return [path for path in sorted((self.root / repo).rglob("*")) if path.is_file()]

    def revision(self, repo):
        content = b"".join(path.name.encode() + path.read_bytes() for path in self.files(repo))
        return hashlib.sha1(content).hexdigest()

    def info(self, repo):
        if not (self.root / repo).is_dir():
            return self.refuse(404, "RepoNotFound")
        siblings = [{"rfilename": path.relative_to(self.root / repo).as_posix()} for path in self.files(repo)]
        return self.answer(
            {
                "id": repo,
                "sha": self.revision(repo),
                "private": repo in self.private,
                "gated": False,
                "disabled": False,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "siblings": siblings,
            }
        )

    def entry(self, repo, path):
        entry = {
            "path": path.relative_to(self.root / repo).as_posix(),
            "type": "directory",
            "oid": "0" * 40,
            "size": 0,
        }
        if path.is_file():
            entry |= {"type": "file", "oid": hashlib.sha1(path.read_bytes()).hexdigest(), "size": path.stat().st_size}
        return entry

    def tree(self, repo, folder=""):
        if not (self.root / repo / (folder or "")).is_dir():
            return self.refuse(404, "EntryNotFound")
        walk = "rglob" if "recursive=true" in self.path.lower() else "glob"
        paths = sorted(getattr(self.root / repo / (folder or ""), walk)("*"))
        return self.answer([self.entry(repo, path) for path in paths])

    def paths_info(self, repo):
        names = json.loads(self.body)["paths"]
        paths = [self.root / repo / name for name in names]
        return self.answer([self.entry(repo, path) for path in paths if path.exists()])

    def resolve(self, repo, name):
        path = self.root / repo / name
        if not path.is_file():
            return self.refuse(404, "EntryNotFound" if (self.root / repo).is_dir() else "RepoNotFound")
        content = path.read_bytes()
        headers = {"X_Repo_Commit": self.revision(repo), "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if not asked:
            return self.answer(content, **headers)
        start, end = int(asked[1]), min(int(asked[2] or len(content)), len(content) - 1)
        return self.answer(
            content[start : end + 1], 206, Content_Range=f"bytes {start}-{end}/{len(content)}", **headers
        )

    def validate_yaml(self):
        self.answer({"errors": [], "warnings": []})

    def preupload(self, repo):
        kinds = {True: "lfs", False: "regular"}
        names = [file["path"] for file in json.loads(self.body)["files"]]
        self.answer(
            {
                "files": [
                    {"path": name, "uploadMode": kinds[name.endswith(".parquet")], "shouldIgnore": False}
                    for name in names
                ]
            }
        )

    def lfs_batch(self, repo):
        href = f"http://{self.headers['Host']}/lfs/"
        objects = [
            {**item, "actions": {"upload": {"href": href + item["oid"]}}} for item in json.loads(self.body)["objects"]
        ]
        self.answer({"transfer": "basic", "objects": objects})

    def lfs_put(self, oid):
        assert hashlib.sha256(self.body).hexdigest() == oid
        (self.root / f"{oid}.lfs").write_bytes(self.body)
        self.answer({})

    def commit(self, repo):
        for line in self.body.splitlines():
            operation = json.loads(line)
            value = operation["value"]
            path = self.root / repo / value.get("path", "")
            if operation["key"] == "deletedFile":
                path.unlink()
                continue
            if operation["key"] not in ("file", "lfsFile"):
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            if operation["key"] == "file":
                path.write_bytes(base64.b64decode(value["content"]))
            else:
                path.write_bytes((self.root / f"{value['oid']}.lfs").read_bytes())
        url = f"http://{self.headers['Host']}/datasets/{repo}/commit/{self.revision(repo)}"
        self.answer({"success": True, "commitOid": self.revision(repo), "commitUrl": url})


ROUTES = [
    ("GET", "/api/whoami-v2", UploadHub.whoami),
    ("POST", "/api/repos/create", UploadHub.create),
    ("POST", "/api/validate-yaml", UploadHub.validate_yaml),
    ("GET", rf"/api/(datasets|models)/{REPO}(/revision/[^/]+)?", UploadHub.info),
    ("GET", rf"/api/datasets/{REPO}/tree/[^/]+(/(?P<folder>.+))?", UploadHub.tree),
    ("POST", rf"/api/datasets/{REPO}/paths-info/[^/]+", UploadHub.paths_info),
    ("POST", rf"/api/datasets/{REPO}/preupload/[^/]+", UploadHub.preupload),
    ("POST", rf"/api/datasets/{REPO}/commit/[^/]+", UploadHub.commit),
    ("POST", rf"/datasets/{REPO}\.git/info/lfs/objects/batch", UploadHub.lfs_batch),
    ("PUT", r"/lfs/(?P<oid>\w+)", UploadHub.lfs_put),
    ("GET HEAD", rf"/datasets/{REPO}/resolve/[^/]+/(?P<name>.+)", UploadHub.resolve),
]


@contextlib.contextmanager
def upload_hub(root: Path):
    """The address of a running Hub, its repositories in `root`, and the names of the private ones."""
    handler = type("Handler", (UploadHub,), {"root": root, "private": set()})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", handler.private
    finally:
        server.shutdown()
        server.server_close()
