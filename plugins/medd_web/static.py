"""Scripts, styles and pictures of the pages, from memory: they are small, and wait for no thread."""

import hashlib
import mimetypes
from pathlib import Path

from fastapi import HTTPException, Request
from fastapi.responses import Response
from starlette.types import Receive, Scope, Send


class Static:
    """What lies in a folder at the start, below a path that ends in a slash."""

    def __init__(self, folder: Path, path: str) -> None:
        self._path = path
        self._files: dict[str, tuple[bytes, str, str]] = {}
        for file in folder.rglob("*"):
            if file.is_file():
                content, kind = file.read_bytes(), mimetypes.guess_type(file.name)[0] or "application/octet-stream"
                etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
                self._files[file.relative_to(folder).as_posix()] = content, kind, etag

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        request = Request(scope)
        if request.method not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        found = self._files.get(scope["path"].removeprefix(self._path))
        if found is None:
            raise HTTPException(404)
        content, kind, etag = found
        if etag in [one.strip() for one in request.headers.get("if-none-match", "").split(",")]:
            response = Response(status_code=304, headers={"ETag": etag})
        else:
            response = Response(content, media_type=kind, headers={"ETag": etag})
        await response(scope, receive, send)
