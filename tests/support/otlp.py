"""A receiver of OTLP over HTTP on loopback."""

import gzip
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any, Self

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, Span


class Collector:
    """Takes spans, and keeps them."""

    def __init__(self) -> None:
        self._requests: list[ExportTraceServiceRequest] = []
        requests = self._requests

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                is_known = self.path == "/v1/traces"
                if is_known:
                    requests.append(ExportTraceServiceRequest.FromString(body))
                self.send_response(200 if is_known else 404)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = HTTPServer(("127.0.0.1", 0), Handler)

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def services(self) -> set[str]:
        """The names of the services that sent something."""
        return {
            attribute.value.string_value
            for sent in self._sent()
            for attribute in sent.resource.attributes
            if attribute.key == "service.name"
        }

    @property
    def spans(self) -> list[Span]:
        return [span for sent in self._sent() for scope in sent.scope_spans for span in scope.spans]

    def _sent(self) -> list[ResourceSpans]:
        return [sent for request in self._requests for sent in request.resource_spans]
