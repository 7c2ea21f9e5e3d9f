"""A Hub on the loopback interface, for the real `huggingface_hub` client.

It speaks the parts of the Hub's HTTP API that creating, uploading, listing and downloading use,
with the status codes and headers that the client reads. Weights go through Git LFS, as on the Hub.
Content is kept in memory. `HF_ENDPOINT` must be set before `huggingface_hub` is imported, so
commands run in processes of their own with `environment`.
"""

import base64
import contextlib
import hashlib
import json
import os
import re
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

import yaml

ROOT = Path(__file__).parents[2]
# Files that the Hub keeps in LFS by their names; others go there by their size.
LFS = (".safetensors", ".bin", ".png", ".jpg", ".model")
REGULAR_BYTES = 10 << 20
NOBODY = "Invalid credentials in Authorization header"


@dataclass
class Repository:
    """Commits of a repository, each a dict of path -> (content, True if in LFS)."""

    private: bool
    commits: dict[str, dict[str, tuple[bytes, bool]]] = field(default_factory=dict)
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    lfs: dict[str, bytes] = field(default_factory=dict)

    def commit(self, files, message, branch="main"):
        head = hashlib.sha1(f"{len(self.commits)} {message}".encode()).hexdigest()
        self.commits[head], self.messages[head] = dict(files), message
        self.branches[branch] = head
        return head

    def head(self, revision="main"):
        """The commit of a branch or of a commit's own name; None if there is none."""
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def files(self, revision="main"):
        """path -> content."""
        return {path: content for path, (content, _) in self.commits[self.head(revision)].items()}


class Refused(Exception):
    """An answer that is an error."""

    def __init__(self, status, message, code=None):
        super().__init__(message)
        self.status, self.message, self.code = status, message, code


class Hub:
    """The server; `with Hub() as hub` starts and ends it.

    Attributes:
        users: token -> (user, namespaces that the token may write to).
        repositories: by `owner/name`.
        requests: `(method, path)` of every request so far.
        uploaded: bytes received by LFS so far.
        cut: number of the LFS uploads to come whose connection is cut in their middle.
        spared: sizes of content that is not cut.
        full: True if no more content is accepted.
        read_only: True if tokens may read alone.
        before_commit: called when a commit arrives, before it is looked at.
        before_upload: the same for LFS content.
    """

    def __init__(self):
        self.users = {"hf_anna": ("anna", {"anna", "lab"}), "hf_ben": ("ben", {"ben"})}
        self.repositories, self.requests = {}, []
        self.uploaded, self.cut, self.spared = 0, 0, set()
        self.full = self.read_only = False
        self.before_commit = self.before_upload = lambda: None
        self.lock = threading.Lock()

    def __enter__(self):
        handler = type("BoundHandler", (Handler,), {"hub": self})
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server.server_port}"

    def add(self, name, files, private=False):
        """A repository that is there already; `files` maps paths to content."""
        repository = self.repositories[name] = Repository(private)
        repository.commit({path: (content, False) for path, content in files.items()}, "first")
        return repository

    def environment(self, home, token="hf_anna", **more):
        """Environment variables of a process that takes this server for the Hub."""
        own = {
            "HF_ENDPOINT": self.address, "HF_HUB_DISABLE_XET": "1", "HF_HOME": str(home),
            "HF_HUB_DISABLE_TELEMETRY": "1", "PYTHONPATH": str(ROOT), "COLUMNS": "80", **more,
        }  # fmt: skip
        if token:
            own["HF_TOKEN"] = token
        dropped = ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_TOKEN", "http_proxy", "HTTP_PROXY")
        kept = {name: value for name, value in os.environ.items() if name not in dropped}
        return {**kept, **own}


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        """Nothing is printed."""

    def do_GET(self):
        self.answer()

    do_HEAD = do_POST = do_PUT = do_GET

    def answer(self):
        with self.hub.lock:
            self.hub.requests.append((self.command, self.path))
        self.address = urlsplit(self.path)
        self.body_read = False
        try:
            for pattern, name in ROUTES:
                if found := re.fullmatch(pattern, self.address.path):
                    getattr(self, name)(*map(unquote, found.groups()))
                    return
            raise Refused(404, "Not Found")
        except Refused as refusal:
            self.drain()
            headers = {"X-Error-Message": refusal.message}
            if refusal.code:
                headers["X-Error-Code"] = refusal.code
            self.send({"error": refusal.message}, refusal.status, headers)

    # What a request says.

    def drain(self):
        """Reads the body that is left, so that the client hears the answer."""
        if not self.body_read:
            self.read_body()

    def read_body(self):
        self.body_read = True
        if self.headers.get("Transfer-Encoding") == "chunked":
            chunks = []
            while size := int(self.rfile.readline().strip() or b"0", 16):
                chunks.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(chunks)
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def read_json(self):
        return json.loads(self.read_body() or b"{}")

    def user(self):
        """(name, namespaces) of the token; (None, empty) without one.

        Raises:
            Refused: a token that nobody has.
        """
        given = self.headers.get("Authorization")
        if given is None:
            return None, set()
        found = self.hub.users.get(given.removeprefix("Bearer "))
        if found is None:
            raise Refused(401, NOBODY)
        return found

    def repository(self, name, to_write=False):
        """A repository that the token may read, or write."""
        user, namespaces = self.user()
        repository, owner = self.hub.repositories.get(name), name.partition("/")[0]
        if repository is None or (repository.private and owner not in namespaces):
            # A private repository of others looks like none.
            missing = "Repository not found"
            raise Refused(404 if user else 401, missing, "RepoNotFound")
        if to_write and (owner not in namespaces or self.hub.read_only):
            raise Refused(403, "You don't have the right to write to this repository")
        return repository

    def files(self, repository, revision):
        head = repository.head(revision)
        if head is None:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return head, repository.commits[head]

    # Answers.

    def send(self, content, status=200, headers=None):
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def whoami(self):
        name, namespaces = self.user()
        if name is None:
            raise Refused(401, NOBODY)
        orgs = [{"name": other} for other in sorted(namespaces - {name})]
        self.send({"type": "user", "name": name, "orgs": orgs})

    def create(self):
        asked, (user, namespaces) = self.read_json(), self.user()
        owner = asked.get("organization") or user
        if user is None:
            raise Refused(401, "Invalid username or password.")
        if owner not in namespaces or self.hub.read_only:
            raise Refused(403, f'You don\'t have the rights to create a model under "{owner}"')
        name = f"{owner}/{asked['name']}"
        if name in self.hub.repositories:
            message = "You already created this model repo"
            there = {"error": message, "url": f"{self.hub.address}/{name}"}
            self.send(there, 409, {"X-Error-Message": message})
            return
        private = asked.get("visibility") == "private" or asked.get("private") is True
        repository = self.hub.repositories[name] = Repository(private)
        repository.commit({".gitattributes": (b"*.safetensors filter=lfs\n", False)}, "initial")
        self.send({"url": f"{self.hub.address}/{name}", "name": name})

    def settings(self, name):
        asked, repository = self.read_json(), self.repository(name, to_write=True)
        repository.private = asked.get("visibility", "") == "private" or bool(asked.get("private"))
        self.send({"private": repository.private})

    def branch(self, name, branch):
        repository = self.repository(name, to_write=True)
        self.read_body()
        if branch in repository.branches:
            raise Refused(409, "Reference already exists")
        repository.branches[branch] = repository.branches["main"]
        self.send({})

    def info(self, name, revision="main"):
        repository = self.repository(name)
        head, files = self.files(repository, revision)
        card = card_data(files)
        self.send(
            {
                "id": name,
                "modelId": name,
                "sha": head,
                "private": repository.private,
                "tags": [],
                "downloads": 0,
                "likes": 0,
                "cardData": card,
                # What `pipeline` reads, which the Hub takes from the card too.
                "pipeline_tag": (card or {}).get("pipeline_tag"),
                "library_name": (card or {}).get("library_name"),
                "siblings": [{"rfilename": path} for path in sorted(files)],
            }
        )

    def tree(self, name, revision, folder=""):
        _, files = self.files(self.repository(name), revision)
        inside = folder.strip("/") + "/" if folder.strip("/") else ""
        found = {path: one for path, one in files.items() if path.startswith(inside)}
        if not found and inside:
            raise Refused(404, f"{folder} does not exist", "EntryNotFound")
        is_deep = parse_qs(self.address.query).get("recursive", ["false"])[0].lower() == "true"
        entries = {}
        for path, (content, in_lfs) in sorted(found.items()):
            if not is_deep and "/" in path.removeprefix(inside):
                outer = inside + path.removeprefix(inside).partition("/")[0]
                entries[outer] = {"type": "directory", "path": outer, "size": 0, "oid": "0" * 40}
                continue
            entry = {"type": "file", "path": path, "size": len(content), "oid": blob(content)}
            if in_lfs:
                oid = hashlib.sha256(content).hexdigest()
                entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 134}
            entries[path] = entry
        self.send(list(entries.values()))

    def preupload(self, name, revision):
        asked, repository = self.read_json(), self.repository(name, to_write=True)
        _, files = self.files(repository, revision)
        answers = []
        for file in asked["files"]:
            is_large = file["path"].endswith(LFS) or file["size"] > REGULAR_BYTES
            mode = "lfs" if is_large else "regular"
            answer = {"path": file["path"], "uploadMode": mode, "shouldIgnore": False}
            if file["path"] in files:
                content = files[file["path"]][0]
                oid = hashlib.sha256(content).hexdigest() if is_large else blob(content)
                answer["oid"] = oid
            answers.append(answer)
        self.send({"files": answers})

    def batch(self, name):
        asked, repository = self.read_json(), self.repository(name, to_write=True)
        objects = []
        for one in asked["objects"]:
            answer = {"oid": one["oid"], "size": one["size"]}
            if self.hub.full:
                answer["error"] = {"code": 507, "message": "Private storage limit reached"}
            elif one["oid"] not in repository.lfs:
                inner = f"{self.hub.address}/lfs/{quote(name, safe='')}/{one['oid']}"
                answer["actions"] = {
                    "upload": {"href": inner},
                    "verify": {"href": f"{inner}/verify"},
                }
            objects.append(answer)
        self.send({"transfer": "basic", "objects": objects})

    def upload(self, name, oid):
        size = int(self.headers.get("Content-Length") or 0)
        if self.command == "PUT" and self.hub.cut > 0 and size not in self.hub.spared:
            self.hub.cut -= 1
            self.rfile.read(size // 2)
            self.cut_connection()
            return
        if self.command == "PUT":
            content = self.read_body()
            self.hub.before_upload()
            if hashlib.sha256(content).hexdigest() != oid:
                raise Refused(400, "The content does not match its oid")
            self.hub.repositories[name].lfs[oid] = content
            self.hub.uploaded += len(content)
            self.send(b"")
        else:
            self.send_part(self.hub.repositories[name].lfs[oid], {})

    def verify(self, name, oid):
        asked, repository = self.read_json(), self.repository(name, to_write=True)
        if len(repository.lfs.get(oid, b"")) != asked["size"]:
            raise Refused(400, "The object is not there")
        self.send({})

    def cut_connection(self):
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(2)

    def commit(self, name, revision):
        lines = [json.loads(line) for line in self.read_body().splitlines()]
        self.hub.before_commit()
        repository = self.repository(name, to_write=True)
        head, files = self.files(repository, revision)
        if revision not in repository.branches:
            raise Refused(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        header, files = lines[0]["value"], dict(files)
        if header.get("parentCommit") not in (None, head):
            raise Refused(412, "A commit has happened since. Please refresh and try again.")
        for line in lines[1:]:
            kind, value = line["key"], line["value"]
            if kind == "file":
                files[value["path"]] = (base64.b64decode(value["content"]), False)
            elif kind == "lfsFile":
                if value["oid"] not in repository.lfs:
                    raise Refused(400, f"{value['path']} was not uploaded")
                files[value["path"]] = (repository.lfs[value["oid"]], True)
            elif kind == "deletedFile" and files.pop(value["path"], None) is None:
                raise Refused(404, "A file with this name doesn't exist", "EntryNotFound")
        answer = {"success": True}
        if parse_qs(self.address.query).get("create_pr") == ["1"]:
            revision = f"refs/pr/{len(repository.branches)}"
            answer["pullRequestUrl"] = f"{self.hub.address}/{name}/discussions/1"
        made = repository.commit(files, header["summary"], revision)
        url = f"{self.hub.address}/{name}/commit/{made}"
        self.send({**answer, "commitOid": made, "commitUrl": url})

    def validate(self):
        fields = yaml_of(self.read_json()["content"])
        faults = [] if isinstance(fields, dict) else ["no metadata"]
        for entry in (fields or {}).get("model-index") or []:
            for result in entry["results"]:
                if not {"task", "dataset", "metrics"} <= set(result):
                    faults.append("a result without task, dataset or metrics")
                elif not {"type", "name"} <= set(result["dataset"]):
                    faults.append("a data set without type or name")
        if (fields or {}).get("license") == "other" and not fields.get("license_name"):
            faults.append("license: other needs a license_name")
        answer = {"errors": [{"message": fault} for fault in faults], "warnings": []}
        self.send(answer, 400 if faults else 200)

    def resolve(self, name, revision, path):
        repository = self.repository(name)
        head, files = self.files(repository, revision)
        commit = {"X-Repo-Commit": head}
        if path not in files:
            raise Refused(404, "Entry not found", "EntryNotFound")
        content, in_lfs = files[path]
        if not in_lfs:
            self.send_part(content, {**commit, "ETag": f'"{blob(content)}"'})
            return
        oid = hashlib.sha256(content).hexdigest()
        headers = {
            **commit, "X-Linked-Size": str(len(content)), "X-Linked-ETag": f'"{oid}"',
            "ETag": f'"{oid}"', "Location": f"/lfs/{quote(name, safe='')}/{oid}",
        }  # fmt: skip
        # As on the Hub the content is on another host, where a client does not look for headers.
        elsewhere = self.hub.address.replace("127.0.0.1", "localhost")
        headers["Location"] = elsewhere + headers["Location"]
        self.send(b"", 302, headers)

    def send_part(self, content, headers):
        """The content, or the part of it that is asked for."""
        asked = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        if asked is None:
            self.send(content, 200, headers)
            return
        begin, end = int(asked[1]), int(asked[2] or len(content) - 1)
        span = {"Content-Range": f"bytes {begin}-{end}/{len(content)}"}
        self.send(content[begin : end + 1], 206, {**headers, **span})


def blob(content):
    """Git's name of a file's content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def yaml_of(card):
    """The metadata of a card; None without any."""
    found = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    return yaml.safe_load(found[1]) if found else None


def card_data(files):
    """The metadata of the card among the files of a commit."""
    content, _ = files.get("README.md", (b"", False))
    return yaml_of(content.decode())


NAME = r"([^/]+/[^/]+)"
ROUTES = [
    (r"/api/whoami-v2", "whoami"),
    (r"/api/repos/create", "create"),
    (r"/api/validate-yaml", "validate"),
    (rf"/api/models/{NAME}/settings", "settings"),
    (rf"/api/models/{NAME}/branch/([^/]+)", "branch"),
    (rf"/api/models/{NAME}/preupload/([^/]+)", "preupload"),
    (rf"/api/models/{NAME}/commit/([^/]+)", "commit"),
    (rf"/api/models/{NAME}/tree/([^/]+)", "tree"),
    (rf"/api/models/{NAME}/tree/([^/]+)/(.+)", "tree"),
    (rf"/api/models/{NAME}/revision/([^/]+)", "info"),
    (rf"/api/models/{NAME}", "info"),
    (rf"/{NAME}\.git/info/lfs/objects/batch", "batch"),
    (r"/lfs/([^/]+)/(\w+)/verify", "verify"),
    (r"/lfs/([^/]+)/(\w+)", "upload"),
    (rf"/{NAME}/resolve/([^/]+)/(.+)", "resolve"),
]
