"""Who may ask the inspector, and what an answer may do in the browser.

The token in the printed URL becomes a cookie; a request without it is refused. The Host header must be one that the
page was opened under, so that a stranger's name that resolves to this machine (DNS rebinding) gets nothing. Answers
come with a policy that runs no script but the package's own files, whatever a caption says. Nothing can be changed: GET
and HEAD.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable
from urllib.parse import urlencode

from starlette.datastructures import MutableHeaders, QueryParams
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
REFUSED = "Open the URL that `tgmae inspect` printed: it holds the token that this page needs.\n"


class Guard:
    """An ASGI application around the site."""

    def __init__(self, app: ASGIApp, *, token: str, hosts: Iterable[str] | None, port: int) -> None:
        """hosts: names that the page may be opened under; None: any (it was told to serve other machines)."""
        self.app, self.token = app, token
        self.hosts = None if hosts is None else {host.lower() for host in hosts}
        self.cookie = f"tgmae-{port}"  # browsers share cookies between ports

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return

        async def guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        answer = self._refusal(Request(scope))
        await (answer or self.app)(scope, receive, guarded)

    def _refusal(self, request: Request) -> Response | None:
        """None: the site may answer."""
        if not self._knows(request.headers.get("host", "")):
            return PlainTextResponse("unknown host\n", 421)
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("read-only\n", 405, {"Allow": "GET, HEAD"})
        given = request.query_params.get("token")
        if given is not None and self._is_token(given):  # out of the address bar, into a cookie
            rest = [(name, value) for name, value in QueryParams(request.query_params).multi_items() if name != "token"]
            path = "/" + request.url.path.lstrip("/")  # never //host
            back = RedirectResponse(path + ("?" + urlencode(rest) if rest else ""), 303)
            back.set_cookie(self.cookie, self.token, httponly=True, samesite="strict", path="/")
            return back
        if not self._is_token(request.cookies.get(self.cookie, "")):
            return PlainTextResponse(REFUSED, 403)
        return None

    def _is_token(self, given: str) -> bool:
        return secrets.compare_digest(given.encode("utf-8", "replace"), self.token.encode())

    def _knows(self, host: str) -> bool:
        if self.hosts is None:
            return True
        # Whatever the port: it may be forwarded (ssh -L 9000:localhost:8765).
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        return name.lower().strip("[]") in self.hosts
