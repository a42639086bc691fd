"""An HTTP server on this machine that behaves well, badly or not at all."""

from __future__ import annotations

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer(ThreadingHTTPServer):
    """Serves its content under every name.

    cuts: after how many bytes of its body each next answer ends. ranges: whether
    it goes on where asked. status: what it answers. asked: the headers so far.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.content, self.etag = b"", '"one"'
        self.cuts: list[int] = []
        self.ranges, self.status = True, 200
        self.asked: list[dict[str, str]] = []

    def url(self, name: str) -> str:
        """Where a file of this name is."""
        return f"http://127.0.0.1:{self.server_address[1]}/files/{name}"


class _Handler(BaseHTTPRequestHandler):
    server: FileServer

    def do_GET(self) -> None:
        server, start = self.server, 0
        server.asked.append(dict(self.headers))
        if server.status != 200:
            self.send_error(server.status)
            return
        fresh = self.headers.get("If-Range") in (None, server.etag)
        if "Range" in self.headers and server.ranges and fresh:
            start = int(self.headers["Range"].removeprefix("bytes=").removesuffix("-"))
        if start >= len(server.content):
            self.send_error(416)
            return
        body = server.content[start:]
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(body)))
        if server.etag:
            self.send_header("ETag", server.etag)
        self.end_headers()
        self.wfile.write(body[: server.cuts.pop(0)] if server.cuts else body)

    def log_message(self, format: str, *args: object) -> None:
        pass
