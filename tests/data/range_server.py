"""A web server on loopback that gives parts of files, or relays, and fails when told to."""

import http.client
import re
import socket
import struct
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple


class Answer(NamedTuple):
    """What goes back to who asked."""

    status: int
    headers: Mapping[str, str]
    content: bytes


Answering = Callable[[str, str, Mapping[str, str]], Answer]  # of method, path and headers


class FailingServer(ThreadingHTTPServer):
    """Every `fails_each`-th GET is refused or cut off, in turn."""

    daemon_threads = True

    def __init__(self, answering: Answering, fails_each: int) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.answering, self.fails_each = answering, fails_each
        self.requests: list[str] = []
        self.failures = 0
        self.lock = threading.Lock()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: FailingServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.requests.append(f"{self.path} {self.headers['Range']}")
            each = self.server.fails_each
            fails = bool(each) and len(self.server.requests) % each == 0
            self.server.failures += fails
            drops = fails and self.server.failures % 2 == 0
        if fails and not drops:
            self.send_error(503)
        else:
            self._send(drops)

    def do_HEAD(self) -> None:
        self._send(drops=False)

    def _send(self, drops: bool) -> None:
        answer = self.server.answering(self.command, self.path, dict(self.headers))
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        if self.command != "HEAD":
            self.send_header("Content-Length", str(len(answer.content)))
        self.end_headers()
        if drops:
            self.wfile.write(answer.content[: len(answer.content) // 2])
            self.wfile.flush()
            # A reset instead of an orderly end, as when a cable is pulled.
            self.connection.setsockopt(
                socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
            )
            self.close_connection = True
        else:
            self.wfile.write(answer.content)

    def log_message(self, *_: object) -> None:
        pass


def serving(
    folder: Path, fails_each: int = 0, ranges: bool = True
) -> AbstractContextManager[FailingServer]:
    """Serve the files of a folder."""
    return _running(partial(_from_folder, folder, ranges), fails_each)


def relaying(address: str, fails_each: int) -> AbstractContextManager[FailingServer]:
    """Pass requests on to another server."""
    return _running(partial(_from_server, address.removeprefix("http://")), fails_each)


def _from_folder(
    folder: Path, ranges: bool, _: str, path: str, headers: Mapping[str, str]
) -> Answer:
    file = folder / path.lstrip("/")
    if not file.is_file():
        return Answer(404, {}, b"")
    content = file.read_bytes()
    asked = re.fullmatch(r"bytes=(\d+)-(\d+)", headers.get("Range", ""))
    if not asked or not ranges:
        return Answer(200, {}, content)
    start, last = int(asked[1]), int(asked[2])
    there = {"Content-Range": f"bytes {start}-{last}/{len(content)}"}
    return Answer(206, there, content[start : last + 1])


def _from_server(host: str, method: str, path: str, headers: Mapping[str, str]) -> Answer:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(method, path, headers=headers)
        answer = connection.getresponse()
        content = answer.read()
    finally:
        connection.close()
    ours = {"connection", "date", "server", "transfer-encoding"}
    if method != "HEAD":
        ours.add("content-length")
    kept = {name: value for name, value in answer.getheaders() if name.lower() not in ours}
    return Answer(answer.status, kept, content)


@contextmanager
def _running(answering: Answering, fails_each: int) -> Iterator[FailingServer]:
    with FailingServer(answering, fails_each) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
