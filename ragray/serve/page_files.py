"""The page's own files, which the ingress serves from the package.

In: an application. Out: the same with a path for each file of `page/`; nothing of the page comes from elsewhere.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.resources import files

from fastapi import FastAPI, Response

_TYPES = {
    "html": "text/html; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "css": "text/css; charset=utf-8",
}
PAGE_FILES = ("index.html", "page.css", "page.js", "texts.js", "passages.js", "chat.js", "search.js", "status.js")

PAGE_PATHS = {"/" if name == "index.html" else f"/{name}": name for name in PAGE_FILES}
PUBLIC = frozenset({*PAGE_PATHS, "/healthz", "/readyz", "/openapi.json"})  # paths that need no key


def add_page(api: FastAPI) -> None:
    """The page at `/`, and beside it what it loads."""
    folder = files("ragray.serve") / "page"
    for path, name in PAGE_PATHS.items():
        media_type = _TYPES[name.rpartition(".")[2]]
        api.get(path, include_in_schema=False)(_page_file((folder / name).read_bytes(), media_type))


def _page_file(content: bytes, media_type: str) -> Callable[[], Awaitable[Response]]:
    async def page_file() -> Response:
        return Response(content, media_type=media_type, headers={"cache-control": "no-cache"})

    return page_file
