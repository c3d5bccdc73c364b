"""
The side of AWS Lambda that a function talks to, small: hands out events and takes the answers.

Source: AWS Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".
"""

import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from local.processes import SOURCE_ROOT

TIMEOUT_SECONDS = 60


class RunningLambda:
    """A function in a process of its own, under the runtime client that AWS uses."""

    def __init__(self) -> None:
        self.events: queue.Queue[str] = queue.Queue()
        self.answers: queue.Queue[tuple[str, Any]] = queue.Queue()

    def invoke(self, event: Mapping[str, Any]) -> Any:
        """Return what the function answers to an event."""
        kind, answer = self.call(event)
        assert kind == "response", answer
        return answer

    def call(self, event: Mapping[str, Any]) -> tuple[str, Any]:
        """Return `response` or `error`, and which."""
        self.events.put(json.dumps(event))
        return self.answers.get(timeout=TIMEOUT_SECONDS)


@contextmanager
def running_lambda(
    handler: str, environment: Mapping[str, str], *, root: Path = SOURCE_ROOT
) -> Iterator[RunningLambda]:
    """
    Start a function, such as `lambdas.gate_tmp.handler.handle`, with this environment and little else.

    `root` is where its code is, and what it finds there goes before what is installed.
    """
    function = RunningLambda()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _api_of(function))
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    variables = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(root),
        "TZ": ":UTC",
        **environment,
    }
    process = subprocess.Popen([sys.executable, "-m", "awslambdaric", handler], cwd=root, env=variables)
    try:
        yield function
    finally:
        process.kill()
        process.wait(10)
        server.shutdown()
        server.server_close()


def _api_of(function: RunningLambda) -> type[BaseHTTPRequestHandler]:
    class Api(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            event = function.events.get().encode()
            self.send_response(200)
            self.send_header("Lambda-Runtime-Aws-Request-Id", "request-1")
            self.send_header("Lambda-Runtime-Deadline-Ms", str(int((time.time() + 60) * 1000)))
            self.send_header("Lambda-Runtime-Invoked-Function-Arn", "arn:aws:lambda:eu-west-1:0:function:f")
            self._end(event)

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            # …/invocation/request-1/response, …/invocation/request-1/error, …/init/error
            function.answers.put((self.path.rpartition("/")[2], json.loads(body)))
            self.send_response(202)
            self._end(b"{}")

        def _end(self, body: bytes) -> None:
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    return Api
