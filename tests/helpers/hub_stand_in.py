# Copyright 2026 The algm-hf authors.
# SPDX-License-Identifier: Apache-2.0
"""
A stand-in for the Hub on the loopback interface: the HTTP endpoints that huggingface_hub's client calls to create a
repository, upload to it, commit and load from it. Everything is kept in memory, commits are atomic as on the Hub.

    with HubStandIn() as hub:
        subprocess.run(command, env=os.environ | hub.environment(cache))
        hub.files("someone/model")  # path -> content of the newest commit
"""

import base64
import hashlib
import json
import re
import socket
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

import yaml


TOKEN, USER = "hf_stand_in", "someone"
LFS_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth", ".ckpt", ".pkl")
ZERO = "0" * 40


@dataclass
class Repository:
    private: bool
    commits: dict[str, dict[str, bytes]] = field(default_factory=dict)  # hash -> path -> content
    messages: dict[str, str] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)

    def resolve(self, revision: str) -> str | None:
        revision = revision.removeprefix("refs/heads/")
        return self.branches.get(revision) or (revision if revision in self.commits else None)

    def commit(self, branch: str, files: dict[str, bytes], message: str) -> str:
        """One new commit on a branch; the branch moves only here, when everything is there."""
        parent = self.branches.get(branch, ZERO)
        listing = "".join(f"{path} {hashlib.sha256(files[path]).hexdigest()}\n" for path in sorted(files))
        commit = hashlib.sha1(f"{parent}\n{message}\n{len(self.commits)}\n{listing}".encode()).hexdigest()
        self.commits[commit], self.messages[commit] = dict(files), message
        self.branches[branch] = commit
        return commit


@dataclass
class Failure:
    """
    Answers matching requests with `status`. With `status=None` it hangs up, after a part of the body. With
    `after=True` it does what was asked first.
    """

    method: str
    path: str  # regular expression
    status: int | None
    message: str = ""
    after: bool = False


class Refusal(Exception):
    def __init__(self, status: int, message: str, code: str | None = None, body: dict | None = None, commit=None):
        self.status, self.message, self.code, self.commit = status, message, code, commit
        self.body = {"error": message} if body is None else body


class HubStandIn:
    """
    Attributes:
        failures (`list[Failure]`): What is to go wrong; empty at first.
        requests (`list[tuple[str, str]]`): Method and path of every request.
        unknown (`list[str]`): Requests that this stand-in does not know.
    """

    def __init__(self):
        self.repositories: dict[str, Repository] = {}
        self.blobs: dict[tuple[str, str], bytes] = {}  # by repository and hash
        self.failures: list[Failure] = []
        self.requests: list[tuple[str, str]] = []
        self.unknown: list[str] = []
        self.lock = threading.RLock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), type("BoundHandler", (Handler,), {"hub": self}))
        self.server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self.server.server_port}"

    def __enter__(self):
        threading.Thread(target=self.server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception):
        self.server.shutdown()
        self.server.server_close()

    def environment(self, cache, token: str = TOKEN) -> dict[str, str]:
        """Variables for a child process that is to take this for the Hub, with an own cache."""
        return {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(cache),
            "HF_TOKEN": token,
            "HF_HUB_OFFLINE": "0",
            "HF_HUB_DISABLE_XET": "1",  # the other protocol needs a storage service; this one serves git-lfs
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
        }

    def create(self, repo_id: str, private: bool = False, files: dict[str, bytes] | None = None) -> str:
        """A repository with a first commit, as the Hub makes it."""
        self.repositories[repo_id] = Repository(private)
        start = {".gitattributes": b"*.safetensors filter=lfs diff=lfs merge=lfs -text\n"}
        return self.repositories[repo_id].commit("main", start | (files or {}), "initial commit")

    def head(self, repo_id: str, branch: str = "main") -> str:
        return self.repositories[repo_id].branches[branch]

    def files(self, repo_id: str, revision: str = "main") -> dict[str, bytes]:
        repository = self.repositories[repo_id]
        return repository.commits[repository.resolve(revision)]


def git_hash(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_lfs(path: str) -> bool:
    return path.endswith(LFS_SUFFIXES)


def metadata_errors(content: str) -> list[str]:
    """A part of what the Hub checks in the metadata of a card."""
    match = re.match(r"\s*---\r?\n(.*?)\r?\n---", content, re.DOTALL)
    try:
        data = yaml.safe_load(match.group(1)) if match else {}
    except yaml.YAMLError as error:
        return [f"YAML: {error}"]
    if not isinstance(data, dict):
        return ["the metadata must be an object"]
    errors = []
    if data.get("license") == "other" and not data.get("license_name"):
        errors.append('"license_name" is required when "license" is "other"')
    if not re.fullmatch(r"[a-z0-9.-]+", str(data.get("license", "mit"))):
        errors.append('"license" must be one of the known identifiers')
    if not isinstance(data.get("base_model", ""), (str, list)) or str(data.get("base_model", "")).startswith("/"):
        errors.append('"base_model" must be a string with a model id')
    for entry in data.get("model-index", []):
        for result in entry["results"]:
            if not {"task", "dataset", "metrics"} <= set(result) or not {"name", "type"} <= set(result["dataset"]):
                errors.append('"model-index[0].results[0]" is incomplete')
    return errors


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: HubStandIn

    ROUTES = (
        ("GET", r"/api/whoami-v2", "whoami"),
        ("POST", r"/api/validate-yaml", "validate_yaml"),
        ("POST", r"/api/repos/create", "create_repository"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)(?:/revision/(?P<revision>[^/]+))?", "model_info"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/tree/(?P<revision>[^/]+)(?:/(?P<path>.+))?", "tree"),
        ("GET", r"/api/models/(?P<repo>[^/]+/[^/]+)/refs", "refs"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/branch/(?P<branch>[^/]+)", "create_branch"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/preupload/(?P<revision>[^/]+)", "preupload"),
        ("POST", r"/api/models/(?P<repo>[^/]+/[^/]+)/commit/(?P<revision>[^/]+)", "commit"),
        ("POST", r"/(?P<repo>[^/]+/[^/]+)\.git/info/lfs/objects/batch", "lfs_batch"),
        ("PUT", r"/lfs/(?P<repo>[^/]+/[^/]+)/(?P<oid>[0-9a-f]{64})", "lfs_put"),
        ("POST", r"/lfs/(?P<repo>[^/]+/[^/]+)/verify", "lfs_verify"),
        ("GET", r"/(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<path>.+)", "resolve"),
    )

    # Requests

    def handle_request(self):
        path = urlsplit(self.path).path
        self.hub.requests.append((self.command, path))
        failure = next((f for f in self.hub.failures if f.method == self.command and re.search(f.path, path)), None)
        self.late = failure if failure is not None and failure.after else None
        if failure is not None and failure.status is None and not failure.after:
            self.rfile.read(100)
            return self.hang_up()
        self.body = self.read_body()
        try:
            if failure is not None and not failure.after:
                raise Refusal(failure.status, failure.message)
            self.dispatch(path)
        except Refusal as refusal:
            headers = {"X-Error-Message": refusal.message}
            headers |= {"X-Error-Code": refusal.code} if refusal.code else {}
            headers |= {"X-Repo-Commit": refusal.commit} if refusal.commit else {}
            self.answer(refusal.body, refusal.status, headers)

    do_GET = do_HEAD = do_POST = do_PUT = handle_request

    def hang_up(self):
        self.close_connection = True
        self.connection.shutdown(socket.SHUT_RDWR)

    def dispatch(self, path: str):
        method = "GET" if self.command == "HEAD" else self.command
        for wanted, pattern, name in self.ROUTES:
            match = re.fullmatch(pattern, path)
            if wanted == method and match:
                with self.hub.lock:
                    values = {k: v if v is None else unquote(v) for k, v in match.groupdict().items()}
                    return getattr(self, name)(**values)
        self.hub.unknown.append(f"{self.command} {self.path}")
        raise Refusal(404, "Not Found")

    def read_body(self) -> bytes:
        if "chunked" in self.headers.get("Transfer-Encoding", ""):
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def answer(self, content, status: int = 200, headers: dict | None = None):
        if self.late is not None:
            if self.late.status is None:
                return self.hang_up()
            content, status, headers = {"error": self.late.message}, self.late.status, None
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        headers = {"Content-Type": "application/json"} | (headers or {}) | {"Content-Length": str(len(data))}
        for name, value in headers.items():
            self.send_header(name, value.replace("\n", " "))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, *args):
        """Nothing: the test prints what matters."""

    # Permissions

    @property
    def is_signed_in(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def sign_in(self):
        if not self.is_signed_in:
            raise Refusal(401, "Invalid credentials in Authorization header")

    def repository(self, repo: str, write: bool = False) -> Repository:
        if write:
            self.sign_in()
        repository = self.hub.repositories.get(repo)
        if repository is None or (repository.private and not self.is_signed_in):
            raise Refusal(401 if not self.is_signed_in else 404, "Repository not found", "RepoNotFound")
        return repository

    def commit_of(self, repository: Repository, revision: str | None) -> str:
        commit = repository.resolve(revision or "main")
        if commit is None:
            raise Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return commit

    # Endpoints

    def whoami(self):
        self.sign_in()
        self.answer({"type": "user", "name": USER, "fullname": USER, "orgs": [], "auth": {"type": "access_token"}})

    def validate_yaml(self):
        errors = metadata_errors(json.loads(self.body)["content"])
        found = [{"message": message} for message in errors]
        self.answer({"errors": found, "warnings": []}, 400 if errors else 200)

    def create_repository(self):
        self.sign_in()
        wanted = json.loads(self.body)
        repo = f"{wanted.get('organization') or USER}/{wanted['name']}"
        answer = {"name": repo, "id": repo, "url": f"{self.hub.endpoint}/{repo}"}
        if repo.split("/")[0] != USER:
            raise Refusal(403, f"You don't have the rights to create a model under the namespace {repo.split('/')[0]}")
        if repo in self.hub.repositories:
            raise Refusal(
                409, "You already created this model repo", body=answer | {"error": "You already created it"}
            )
        self.hub.create(repo, private=wanted.get("private") is True or wanted.get("visibility") == "private")
        self.answer(answer)

    def model_info(self, repo, revision):
        repository = self.repository(repo)
        commit = self.commit_of(repository, revision)
        siblings = [{"rfilename": path} for path in sorted(repository.commits[commit])]
        facts = {"_id": "0", "id": repo, "modelId": repo, "sha": commit, "private": repository.private, "tags": []}
        self.answer(facts | {"siblings": siblings, "downloads": 0, "likes": 0, "gated": False})

    def tree(self, repo, revision, path):
        repository = self.repository(repo)
        commit = self.commit_of(repository, revision)
        entries = []
        for name, content in sorted(repository.commits[commit].items()):
            if path is None or name.startswith(path + "/"):
                entry = {"type": "file", "path": name, "size": len(content), "oid": git_hash(content)}
                if is_lfs(name):
                    oid = hashlib.sha256(content).hexdigest()
                    entry["lfs"] = {"oid": oid, "size": len(content), "pointerSize": 130}
                entries.append(entry)
        if path is not None and not entries:
            raise Refusal(404, f"{path} does not exist on {revision}", "EntryNotFound", commit=commit)
        self.answer(entries)

    def refs(self, repo):
        branches = self.repository(repo).branches
        found = [{"name": b, "ref": f"refs/heads/{b}", "targetCommit": sha} for b, sha in branches.items()]
        self.answer({"branches": found, "converts": [], "tags": []})

    def create_branch(self, repo, branch):
        repository = self.repository(repo, write=True)
        if branch in repository.branches:
            raise Refusal(409, f"Reference already exists: refs/heads/{branch}")
        start = json.loads(self.body or b"{}").get("startingPoint")
        repository.branches[branch] = self.commit_of(repository, start)
        self.answer({}, 201)

    def preupload(self, repo, revision):
        repository = self.repository(repo, write=True)
        present = repository.commits[self.commit_of(repository, revision)]
        answers = []
        for wanted in json.loads(self.body)["files"]:
            path = wanted["path"]
            answer = {"path": path, "uploadMode": "lfs" if is_lfs(path) else "regular", "shouldIgnore": False}
            if path in present:
                content = present[path]
                answer["oid"] = hashlib.sha256(content).hexdigest() if is_lfs(path) else git_hash(content)
            answers.append(answer)
        self.answer({"files": answers})

    def lfs_batch(self, repo):
        self.repository(repo, write=True)
        answers = []
        for wanted in json.loads(self.body)["objects"]:
            answer = {"oid": wanted["oid"], "size": wanted["size"]}
            if (repo, wanted["oid"]) not in self.hub.blobs:
                base = f"{self.hub.endpoint}/lfs/{repo}"
                answer["actions"] = {
                    "upload": {"href": f"{base}/{wanted['oid']}"},
                    "verify": {"href": f"{base}/verify"},
                }
            answers.append(answer)
        self.answer({"transfer": "basic", "objects": answers})

    def lfs_put(self, repo, oid):
        if hashlib.sha256(self.body).hexdigest() != oid:
            raise Refusal(400, "the content does not match its hash")
        self.hub.blobs[repo, oid] = self.body
        self.answer(b"", headers={"ETag": f'"{oid}"'})

    def lfs_verify(self, repo):
        wanted = json.loads(self.body)
        if len(self.hub.blobs.get((repo, wanted["oid"]), b"")) != wanted["size"]:
            raise Refusal(404, "no such object")
        self.answer({})

    def commit(self, repo, revision):
        repository = self.repository(repo, write=True)
        head = self.commit_of(repository, revision)
        if revision not in repository.branches:
            raise Refusal(400, f"{revision} is not a branch")
        files, message = dict(repository.commits[head]), ""
        for line in filter(None, self.body.split(b"\n")):
            entry = json.loads(line)
            key, value = entry["key"], entry["value"]
            if key == "header":
                message = value["summary"]
                if value.get("parentCommit") not in (None, head):
                    raise Refusal(412, "A commit has happened since. Please refresh and try again.")
            elif key == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif key == "lfsFile":
                if (repo, value["oid"]) not in self.hub.blobs:
                    raise Refusal(400, f"LFS pointer pointed to a file that does not exist: {value['path']}")
                files[value["path"]] = self.hub.blobs[repo, value["oid"]]
            elif key == "deletedFile":
                if files.pop(value["path"], None) is None:
                    raise Refusal(404, "A file with this name doesn't exist", "EntryNotFound")
            else:
                raise Refusal(400, f"unknown operation {key}")
        commit = repository.commit(revision, files, message)
        self.answer({"success": True, "commitOid": commit, "commitUrl": f"{self.hub.endpoint}/{repo}/commit/{commit}"})

    def resolve(self, repo, revision, path):
        repository = self.repository(repo)
        commit = self.commit_of(repository, revision)
        content = repository.commits[commit].get(path)
        if content is None:
            raise Refusal(404, "Entry not found", "EntryNotFound", commit=commit)
        etag = hashlib.sha256(content).hexdigest() if is_lfs(path) else git_hash(content)
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": commit, "Content-Type": "application/octet-stream"}
        if is_lfs(path):
            headers |= {"X-Linked-ETag": f'"{etag}"', "X-Linked-Size": str(len(content))}
        self.answer(content, headers=headers)


__all__ = ["TOKEN", "USER", "Failure", "HubStandIn"]
