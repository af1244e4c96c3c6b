"""A web server on loopback that gives parts of files, and fails when told to."""

import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class RangeServer(ThreadingHTTPServer):
    """Serves a folder; every `fails_each`-th request is refused or cut off, in turn."""

    daemon_threads = True

    def __init__(self, folder: Path, fails_each: int = 0, ranges: bool = True) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.fails_each, self.ranges = folder, fails_each, ranges
        self.requests: list[str] = []
        self.failures = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: RangeServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append(f"{self.path} {self.headers['Range']}")
            each = self.server.fails_each
            fails = bool(each) and len(self.server.requests) % each == 0
            self.server.failures += fails
            drops = fails and self.server.failures % 2 == 0
        path = self.server.folder / self.path.lstrip("/")
        if fails and not drops:
            self.send_error(503)
        elif not path.is_file():
            self.send_error(404)
        else:
            self._send(path.read_bytes(), drops)

    def _send(self, content: bytes, drops: bool) -> None:
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"] or "")
        if asked and self.server.ranges:
            start, last = int(asked[1]), int(asked[2])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{last}/{len(content)}")
            content = content[start : last + 1]
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if drops:
            self.wfile.write(content[: len(content) // 2])
            self.wfile.flush()
            # A reset instead of an orderly end, as when a cable is pulled.
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.close_connection = True
        else:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def serving(folder: Path, fails_each: int = 0, ranges: bool = True) -> Iterator[RangeServer]:
    with RangeServer(folder, fails_each, ranges) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
