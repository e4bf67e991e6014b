"""Google's Cloud Storage of our own: fake-gcs-server, built by Go once, with the XML API in front of it.

fake-gcs-server has the JSON API, and of the XML API, which obstore speaks, almost nothing: no PUT, no `start-after`. So
what asks in XML is asked again in JSON here, and nothing else: that an object must not exist yet
(`x-goog-if-generation-match: 0`) is looked at by fake-gcs-server, under its lock. Only the parts of an upload in parts
are kept here until it is completed; its JSON API has none.

Sources: https://cloud.google.com/storage/docs/xml-api/reference-methods, and …/docs/json_api/v1/objects.
"""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import secrets
import shutil
import subprocess
import tempfile
import threading
import time
import xml.etree.ElementTree as ElementTree
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final
from urllib.parse import parse_qs, quote, unquote, urlencode, urlsplit

from tests.servers.leftovers import new_folder
from tests.servers.nats import build
from tests.servers.ports import free_port
from tests.servers.programs import ServerUnavailable

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

__all__ = ["GcsServer", "program"]

# The first whose simple upload looks at ifGenerationMatch.
_VERSION: Final = "v1.56.1"
_READY_SECONDS: Final = 60.0
_CACHE: Final = Path(__file__).resolve().parents[2] / ".cache" / "gcs"


def program(say: Callable[[str], None]) -> Path:
    """The program fake-gcs-server, built when it is not in the cache yet.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: This machine does not have it and cannot build it.
    """
    return build("fake-gcs-server", "github.com/fsouza/fake-gcs-server", _VERSION, _CACHE, say)


class GcsServer:
    """One server on 127.0.0.1 for the length of a `with` block; what it has is gone with it.

    Args:
        say: Takes a line that tells the user why the tests wait.

    Raises:
        ServerUnavailable: This machine does not have it.
    """

    def __init__(self, say: Callable[[str], None] = print) -> None:
        self._program = program(say)
        self._inner = free_port()
        self._front: _Front | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._log: IO[bytes] | None = None

    @property
    def port(self) -> int:
        """Where it is."""
        assert self._front is not None, "the server was never started"
        return self._front.server_port

    def __enter__(self) -> Self:
        self._folder = new_folder()
        self._log = tempfile.TemporaryFile()
        options = ["-backend", "memory", "-scheme", "http", "-host", "127.0.0.1", "-port", str(self._inner)]
        self._process = subprocess.Popen(
            [str(self._program), *options, "-log-level", "error"],
            cwd=self._folder,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + _READY_SECONDS
        while not self._is_ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self._log.seek(0)
                said = self._log.read()[-2000:].decode(errors="replace")
                self.__exit__()
                raise ServerUnavailable(f"GCS: fake-gcs-server did not start: {said}")
            time.sleep(0.02)
        self._front = _Front(self._inner)
        threading.Thread(target=self._front.serve_forever, args=(0.05,), name="gcs", daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._front is not None:
            self._front.shutdown()
            self._front.server_close()
            self._front = None
        if self._process is not None:
            self._process.kill()  # there is nothing on disk that it would have to finish
            self._process.wait()
            self._process = None
        if self._log is not None:
            self._log.close()
            self._log = None
        shutil.rmtree(self._folder, ignore_errors=True)

    def make_bucket(self, name: str) -> None:
        """Make a bucket."""
        assert self._ask("POST", "/storage/v1/b", json.dumps({"name": name}).encode()) == 200

    def key(self, port: int | None = None) -> str:
        """The key of a service account that says where the server is, and that nobody has to be asked for a token.

        Args:
            port: Where it is to be reached; None: where it is.
        """
        at = f"http://127.0.0.1:{port or self.port}"
        nothing = {"client_email": "", "private_key": "", "private_key_id": ""}
        return json.dumps({"gcs_base_url": at, "disable_oauth": True, **nothing})

    def _is_ready(self) -> bool:
        with contextlib.suppress(OSError):
            return self._ask("GET", "/_internal/healthcheck") == 200
        return False

    def _ask(self, method: str, path: str, body: bytes | None = None) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self._inner, timeout=5)
        with contextlib.closing(connection):
            connection.request(method, path, body)
            return connection.getresponse().status


class _Front(ThreadingHTTPServer):
    """What translates.

    Args:
        inner: The port of fake-gcs-server.

    Attributes:
        uploads: The parts of uploads that are not completed, by the upload and the number.
    """

    daemon_threads = True
    # Connections that a test has left open are no reason to wait.
    block_on_close = False

    def __init__(self, inner: int) -> None:
        super().__init__(("127.0.0.1", 0), _Request)
        self.inner = inner
        self.uploads: dict[str, dict[int, bytes]] = {}


class _Request(BaseHTTPRequestHandler):
    """The requests of one connection, each of which becomes one of another connection."""

    protocol_version = "HTTP/1.1"
    # Without this the headers and the body of an answer wait for each other, 40 ms.
    wbufsize = -1
    server: _Front

    def setup(self) -> None:
        super().setup()
        self._inner = http.client.HTTPConnection("127.0.0.1", self.server.inner)

    def finish(self) -> None:
        self._inner.close()
        with contextlib.suppress(OSError):  # the client has gone
            super().finish()

    def handle(self) -> None:
        with contextlib.suppress(ConnectionError):
            super().handle()

    def do_GET(self) -> None:
        bucket, name, query = self._asked()
        if name:
            self._pass("GET", f"/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media")
            return
        wanted = {"prefix": query.get("prefix", ""), "startOffset": query.get("start-after", "")}
        wanted["pageToken"] = query.get("continuation-token", "")
        status, _, body = self._ask("GET", f"/storage/v1/b/{bucket}/o?{urlencode(wanted)}")
        if status != 200:
            self._answer(status, body)
            return
        found = json.loads(body)
        result = ElementTree.Element("ListBucketResult")
        for one in found.get("items", ()):
            if one["name"] != query.get("start-after"):  # startOffset begins with it, start-after behind it
                contents = ElementTree.SubElement(result, "Contents")
                for tag, field in (("Key", "name"), ("LastModified", "updated"), ("ETag", "etag"), ("Size", "size")):
                    ElementTree.SubElement(contents, tag).text = one[field]
        if found.get("nextPageToken"):
            ElementTree.SubElement(result, "NextContinuationToken").text = found["nextPageToken"]
        self._answer(200, ElementTree.tostring(result))

    def do_HEAD(self) -> None:
        bucket, name, _ = self._asked()
        self._pass("HEAD", f"/download/storage/v1/b/{bucket}/o/{quote(name, safe='')}?alt=media")

    def do_PUT(self) -> None:
        bucket, name, query = self._asked()
        body = self._body()
        if "uploadId" in query:
            parts = self.server.uploads.get(query["uploadId"])
            if parts is None:
                self._answer(404)
            else:
                parts[int(query["partNumber"])] = body
                self._answer(200, ETag=f'"{hashlib.md5(body, usedforsecurity=False).hexdigest()}"')
            return
        self._put(bucket, name, body, self.headers.get("x-goog-if-generation-match"))

    def do_POST(self) -> None:
        bucket, name, query = self._asked()
        body = self._body()
        if "uploads" in query:
            upload = secrets.token_hex(8)
            self.server.uploads[upload] = {}
            result = ElementTree.Element("InitiateMultipartUploadResult")
            ElementTree.SubElement(result, "UploadId").text = upload
            self._answer(200, ElementTree.tostring(result))
            return
        parts = self.server.uploads.pop(query["uploadId"], None)
        if parts is None:
            self._answer(404)
            return
        numbers = [int(number.text or 0) for number in ElementTree.fromstring(body).iterfind("{*}Part/{*}PartNumber")]
        self._put(bucket, name, b"".join(parts[number] for number in numbers), None, "CompleteMultipartUploadResult")

    def do_DELETE(self) -> None:
        bucket, name, query = self._asked()
        if "uploadId" in query:
            self._answer(204 if self.server.uploads.pop(query["uploadId"], None) is not None else 404)
            return
        status, _, body = self._ask("DELETE", f"/storage/v1/b/{bucket}/o/{quote(name, safe='')}")
        self._answer(204 if status in (200, 204) else status, b"" if status in (200, 204) else body)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Nothing."""

    def _put(self, bucket: str, name: str, body: bytes, generation: str | None, result: str | None = None) -> None:
        query = {"uploadType": "media", "name": name}
        if generation is not None:
            query["ifGenerationMatch"] = generation
        status, _, said = self._ask("POST", f"/upload/storage/v1/b/{bucket}/o?{urlencode(query)}", body)
        if status != 200:
            self._answer(status, said)
            return
        made = json.loads(said)
        etag = f'"{made["etag"].strip(chr(34))}"'
        answer = b""
        if result is not None:
            root = ElementTree.Element(result)
            ElementTree.SubElement(root, "ETag").text = etag
            answer = ElementTree.tostring(root)
        self._answer(200, answer, **{"ETag": etag, "x-goog-generation": made["generation"]})

    def _asked(self) -> tuple[str, str, dict[str, str]]:
        """The bucket, the name of the object, the query."""
        parts = urlsplit(self.path)
        bucket, _, name = parts.path[1:].partition("/")
        query = parse_qs(parts.query, keep_blank_values=True)
        return unquote(bucket), unquote(name), {key: values[0] for key, values in query.items()}

    def _body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def _ask(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> tuple[int, http.client.HTTPMessage, bytes]:
        self._inner.request(method, path, body, headers or {})
        answer = self._inner.getresponse()
        return answer.status, answer.headers, answer.read()

    def _pass(self, method: str, path: str) -> None:
        """Ask for an object as it was asked for, and hand on the answer."""
        asked = {name: value for name, value in self.headers.items() if name.lower() in ("range", "if-match")}
        status, headers, body = self._ask(method, path, headers=asked)
        known = ("content-type", "content-length", "content-range", "etag", "last-modified", "x-goog-generation")
        self.send_response(status)
        for name, value in headers.items():
            if name.lower() in known:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
