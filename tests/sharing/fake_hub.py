"""A stand-in for the Hugging Face Hub's HTTP interface, as far as huggingface_hub uses it to upload and download."""

import base64
import json
import re
from dataclasses import dataclass, field
from fnmatch import fnmatch
from typing import Any
from urllib.parse import unquote

from pytest_httpserver import HTTPServer
from werkzeug import Request, Response

COMMIT = "c0ffee" + "0" * 34


@dataclass
class FakeHub:
    """Repositories in memory.

    Attributes:
        files: Content by name, of the main branch of each `datasets/USER/NAME` or `models/USER/NAME`.
        proposed: The same of pull requests.
        private: Whether each created repository is private.
        tokens: Values of the header `Authorization` of all requests.
        refuses: Answer every request with status 403, and repeat the token in the body.
    """

    files: dict[str, dict[str, bytes]] = field(default_factory=dict)
    proposed: dict[str, dict[str, bytes]] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    tokens: set[str] = field(default_factory=set)
    refuses: bool = False

    def serve(self, server: HTTPServer) -> str:
        """Answer the requests to a server; return its address."""
        server.expect_request(re.compile("/.*")).respond_with_handler(self._answer)
        return server.url_for("").rstrip("/")

    def _answer(self, request: Request) -> Response:
        token = request.headers.get("Authorization", "")
        self.tokens.add(token)
        if self.refuses:
            return Response(
                json.dumps({"error": f"{token} may not write"}), 403, {"X-Error-Message": f"{token} is refused"}
            )
        parts = unquote(request.path).strip("/").split("/")
        if parts[0] != "api":
            return self._resolve(parts)
        if parts[1:3] == ["repos", "create"]:
            body = request.get_json()
            name = f"{body.get('type', 'model')}s/{body.get('organization', 'user')}/{body['name']}"
            self.files.setdefault(name, {})
            self.private[name] = body.get("visibility") == "private" or bool(body.get("private"))
            return _json({"url": f"{request.host_url}{name}", "name": name, "id": name.partition("/")[2]})
        if parts[1] == "validate-yaml":
            return _json({"errors": [], "warnings": []})
        if parts[1] not in ("datasets", "models"):
            return _json({"name": "user", "auth": {}})
        name, verb = "/".join(parts[1:4]), parts[4] if len(parts) > 4 else "info"
        if name not in self.files:
            return Response("{}", 404, {"X-Error-Code": "RepoNotFound"})
        if verb == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in request.get_json()["files"]
            ]
            return _json({"files": files})
        if verb == "discussions":
            return self._discussion(name, request)
        if verb == "commit":
            return self._commit(name, request, is_proposal=parts[5] == "refs")
        if verb == "tree":
            return _json(
                [
                    {"type": "file", "path": path, "size": len(content), "oid": "0"}
                    for path, content in self.files[name].items()
                ]
            )
        siblings = [{"rfilename": path, "size": len(content)} for path, content in self.files[name].items()]
        return _json({"id": name.partition("/")[2], "sha": COMMIT, "siblings": siblings})

    def _discussion(self, name: str, request: Request) -> Response:
        kind, _, repository = name.partition("/")
        return _json(
            {
                "num": 1,
                "title": "",
                "status": "draft",
                "isPullRequest": True,
                "createdAt": "2026-01-01T00:00:00.000Z",
                "repo": {"name": repository, "type": kind.rstrip("s")},
                "events": [],
                "changes": {"base": "refs/heads/main"},
                "filesWithConflicts": [],
            }
        )

    def _commit(self, name: str, request: Request, *, is_proposal: bool) -> Response:
        files = self.proposed.setdefault(name, {}) if is_proposal else self.files[name]
        for line in request.get_data().decode().splitlines():
            entry: dict[str, Any] = json.loads(line)
            if entry["key"] == "file":
                files[entry["value"]["path"]] = base64.b64decode(entry["value"]["content"])
            elif entry["key"] == "deletedFile":
                files.pop(entry["value"]["path"])
        return _json({"commitUrl": f"{request.host_url}{name}/commit/{COMMIT}", "commitOid": COMMIT})

    def _resolve(self, parts: list[str]) -> Response:
        name, path = (
            ("/".join(parts[:3]), parts[5:]) if parts[0] == "datasets" else (f"models/{parts[0]}/{parts[1]}", parts[4:])
        )
        content = self.files.get(name, {}).get("/".join(path))
        if content is None:
            return Response("", 404, {"X-Error-Code": "EntryNotFound"})
        return Response(content, headers={"X-Repo-Commit": COMMIT, "ETag": '"' + "0" * 40 + '"'})

    def matching(self, name: str, pattern: str) -> list[str]:
        """Return the files of a repository that match a pattern, sorted."""
        return sorted(path for path in self.files[name] if fnmatch(path, pattern))


def _json(value: object) -> Response:
    return Response(json.dumps(value), content_type="application/json")
