"""
Reports every external side effect of a process of the fleet to the controller of the chaos tests, and obeys it.

Python imports a module of this name when it starts; the tests put this directory on the path of workers, Lambdas and
planners, so the code under test knows nothing of it. Every call through botocore is a side effect; so is, through
psycopg, every transaction of the ledger, and every connection, statement, copy and commit in a source or the warehouse.

A process that is no part of the fleet, or has no controller to ask, goes on as if this were not here.
"""

import itertools
import json
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType
from typing import Any

#: Host and port of the controller.
CONTROLLER_VARIABLE = "CHAOS_CONTROLLER"
#: Handed on by a worker's main process to its children, which are started under no name of ours.
PART_VARIABLE = "CHAOS_PART"
#: Tells two planners apart, which know no batch yet.
TAG_VARIABLE = "CHAOS_TAG"

_LAMBDA_PREFIX = "esclusa-local-"
_LEDGER_DATABASE = "esclusa_control"
_WAREHOUSE_DATABASE = "esclusa_warehouse"

_BATCH_ID = re.compile(r"b[0-9a-f]{24}")
_WRITTEN_TABLE = re.compile(r"\b(INSERT INTO|UPDATE|DELETE FROM) esclusa\.(\w+)")


# ---- who asks whom ---------------------------------------------------------------------------------------------


def _part_of(argv: list[str]) -> str | None:
    """Return which part of the fleet a process is by its command line."""
    modules = [argv[index + 1] for index, word in enumerate(argv[:-1]) if word == "-m"]
    for module in modules:
        if match := re.fullmatch(r"services\.(\w+)\.app", module):
            os.environ[PART_VARIABLE] = match[1]
            return f"{match[1]} (main)"
        if module == "cli.main" and "enqueue" in argv:
            return "planner"
    return os.environ.get(PART_VARIABLE)


_PART = _part_of(sys.orig_argv)


def _role() -> str | None:
    # Asked anew: the AWS server sets the name of a Lambda's process after its start.
    function = os.environ.get("AWS_LAMBDA_FUNCTION_NAME", "")
    return function.removeprefix(_LAMBDA_PREFIX) if function else _PART


class _Controller:
    """One connection to the controller, shared by the threads of a process."""

    def __init__(self, address: str) -> None:
        self._address = address
        self._lock = threading.Lock()
        self._stream: Any = None
        self._is_gone = False

    def ask(self, question: dict[str, Any]) -> str:
        """Return the verdict; `go` if nobody answers."""
        with self._lock:
            if self._is_gone:
                return "go"
            try:
                if self._stream is None:
                    host, _, port = self._address.rpartition(":")
                    self._stream = socket.create_connection((host, int(port)), timeout=30).makefile("rw")
                self._stream.write(json.dumps(question) + "\n")
                self._stream.flush()
                return str(json.loads(self._stream.readline())["verdict"])
            except (OSError, ValueError):
                self._is_gone = True
                return "go"


_controller = _Controller(os.environ.get(CONTROLLER_VARIABLE, ""))
_numbers = itertools.count(1)


class _Recent(threading.local):
    """The batches that a thread has last spoken of: those of a call that names none."""

    ids: tuple[str, ...] = ()


_recent = _Recent()
#: Of the whole process, for threads that have not spoken of any: a process works on one task at a time.
_latest: list[tuple[str, ...]] = [()]


def _mentioned(*values: object) -> tuple[str, ...]:
    found = tuple(dict.fromkeys(_BATCH_ID.findall(repr(values))))
    if found:
        _recent.ids = found
        _latest[0] = found
    return found


def _context() -> tuple[str, ...]:
    if _role() == "sweeper":  # it speaks of many, and of most things of none
        return ()
    return _recent.ids or _latest[0]


def _perform(
    effect: str,
    ids: tuple[str, ...],
    do: Callable[[], Any],
    *,
    unavailable: Callable[[], Exception],
    lost: Callable[[], Exception],
    again: Callable[[], Any] | None = None,
    ids_after: Callable[[Any], tuple[str, ...]] = lambda _: (),
) -> Any:
    """Do one side effect as the controller wants it."""
    role = _role()
    if role is None:
        return do()
    question = {
        "id": f"{os.getpid()}-{next(_numbers)}",
        "pid": os.getpid(),
        "role": role,
        "effect": effect,
        "tag": os.environ.get(TAG_VARIABLE, ""),
    }
    verdict = _controller.ask({**question, "phase": "before", "batches": ids})
    if verdict == "kill_before":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verdict == "unavailable":
        raise unavailable()
    elif verdict == "freeze":
        # All threads of the process stand still, its signs of life too. The controller lets it go on.
        os.kill(os.getpid(), signal.SIGSTOP)
    elif verdict.startswith("sleep"):
        time.sleep(float(verdict.partition(" ")[2]))
    answer, error = _outcome(do)
    verdict = _controller.ask({**question, "phase": "after", "batches": (*ids, *ids_after(answer))})
    if verdict == "kill_after":
        os.kill(os.getpid(), signal.SIGKILL)
    elif verdict == "lose_reply":
        raise lost()
    elif verdict == "duplicate" and again is not None:
        answer, error = _outcome(again)
    if error is not None:
        raise error
    return answer


def _outcome(do: Callable[[], Any]) -> tuple[Any, Exception | None]:
    try:
        return do(), None
    except Exception as error:  # noqa: BLE001  an answer too: an object that is not there, a key that is taken
        return None, error


# ---- AWS -------------------------------------------------------------------------------------------------------


def _patch_botocore(module: ModuleType) -> None:
    from botocore.exceptions import ClientError, ConnectionClosedError

    original = module.BaseClient._make_api_call
    #: The batches of the messages in hand, which are settled by their receipt alone.
    receipts: dict[str, tuple[str, ...]] = {}

    def remember_receipts(answer: Any) -> tuple[str, ...]:
        for message in (answer or {}).get("Messages", ()):
            receipts[message["ReceiptHandle"]] = _mentioned(message.get("Body"))
        return _mentioned((answer or {}).get("Messages"))

    def make_api_call(client: Any, operation: str, parameters: dict[str, Any]) -> Any:
        service = client.meta.service_model.service_name
        entries = parameters.get("Entries") or ()
        handles = [
            parameters.get("ReceiptHandle"),
            *(each.get("ReceiptHandle") for each in entries if "Id" in each),
        ]
        # Bodies of objects are left out: large, and no business of ours.
        named = {name: value for name, value in parameters.items() if name != "Body"}
        ids = _mentioned(named, [receipts.get(str(handle)) for handle in handles])
        if not ids and service != "sqs":
            ids = _context()

        def unavailable() -> Exception:
            error = {"Code": "ServiceUnavailable", "Message": "chaos: away"}
            return ClientError({"Error": error, "ResponseMetadata": {"HTTPStatusCode": 503}}, operation)

        return _perform(
            f"{service} {operation}{_place(service, parameters)}",
            ids,
            lambda: original(client, operation, parameters),
            unavailable=unavailable,
            lost=lambda: ConnectionClosedError(endpoint_url=client.meta.endpoint_url),
            again=lambda: original(client, operation, parameters),
            ids_after=remember_receipts if operation == "ReceiveMessage" else lambda _: (),
        )

    module.BaseClient._make_api_call = make_api_call


def _place(service: str, parameters: dict[str, Any]) -> str:
    """Return the area of a key or the name of a queue or secret: what tells calls of one operation apart."""
    if service == "s3":
        key = parameters.get("Key") or ""
        return f" {key.partition('/')[0]}/" if key else ""
    if service == "sqs":
        if "MessageBody" in str(parameters.get("Entries")):
            return ""  # whoever commits sends what is in the outbox, for whichever queue
        return " " + str(parameters.get("QueueUrl", "")).rpartition("/")[2].removeprefix(_LAMBDA_PREFIX)
    if service == "secretsmanager":
        # Each source has a secret of its own.
        return " " + re.sub(r"_\d+$", "", str(parameters.get("SecretId", "")))
    return ""


# ---- databases -------------------------------------------------------------------------------------------------


def _patch_psycopg(module: ModuleType) -> None:
    connection_class, cursor_class = module.Connection, module.Cursor
    connect, commit = connection_class.connect.__func__, connection_class.commit
    execute, copy = cursor_class.execute, cursor_class.copy
    exit_transaction = module.Transaction.__exit__
    operational_error = module.OperationalError

    def broken(connection: Any) -> Exception:
        connection.close()
        return operational_error("chaos: server closed the connection unexpectedly")  # type: ignore[no-any-return]

    def perform(effect: str, connection: Any, ids: tuple[str, ...], do: Callable[[], Any]) -> Any:
        return _perform(
            effect, ids, do, unavailable=lambda: broken(connection), lost=lambda: broken(connection)
        )

    def patched_connect(cls: Any, conninfo: str = "", **options: Any) -> Any:
        name = _database_kind(options.get("dbname") or conninfo.rpartition("/")[2].partition("?")[0])
        return _perform(
            f"{name} connect",
            _context(),
            lambda: connect(cls, conninfo, **options),
            unavailable=lambda: operational_error("chaos: connection refused"),
            lost=lambda: operational_error("chaos: connection timeout expired"),
        )

    def patched_execute(cursor: Any, query: Any, params: Any = None, **options: Any) -> Any:
        connection = cursor.connection
        kind = _database_kind(connection.info.dbname)
        text = _text_of(query)
        ids = _mentioned(params, text if len(text) < 10_000 else "")
        if kind == "ledger":
            # Its side effect is the commit: what is in it is remembered until then.
            transaction = _transaction_of(connection)
            transaction["ids"].update(dict.fromkeys(ids))
            transaction["writes"].update(
                f"{verb.split()[0]} {table}" for verb, table in _WRITTEN_TABLE.findall(text)
            )
            return execute(cursor, query, params, **options)
        return perform(
            f"{kind} {_label(text)}",
            connection,
            ids or _context(),
            lambda: execute(cursor, query, params, **options),
        )

    @contextmanager
    def patched_copy(cursor: Any, statement: Any, params: Any = None, **options: Any) -> Iterator[Any]:
        kind = _database_kind(cursor.connection.info.dbname)
        label = _label(_text_of(statement))
        perform(f"{kind} {label} (begin)", cursor.connection, _context(), lambda: None)
        with copy(cursor, statement, params, **options) as opened:
            yield opened
        perform(f"{kind} {label} (end)", cursor.connection, _context(), lambda: None)

    def patched_commit(connection: Any) -> None:
        kind = _database_kind(connection.info.dbname)
        transaction = _transaction_of(connection)
        decided = _decision(transaction["writes"]) if kind == "ledger" else "COMMIT"
        effect, ids = f"{kind} {decided}", tuple(transaction["ids"]) or _context()
        transaction["ids"], transaction["writes"] = {}, set()
        perform(effect, connection, ids, lambda: commit(connection))

    def patched_exit(transaction: Any, kind: Any, error: Any, trace: Any) -> Any:
        connection = transaction.connection
        database = "ledger" if connection.closed else _database_kind(connection.info.dbname)
        if kind is not None or database == "ledger":
            # In the ledger only SQLAlchemy has such blocks, when it first connects.
            return exit_transaction(transaction, kind, error, trace)
        return perform(
            f"{database} COMMIT",
            connection,
            _context(),
            lambda: exit_transaction(transaction, kind, error, trace),
        )

    connection_class.connect = classmethod(patched_connect)
    module.connect = connection_class.connect
    connection_class.commit = patched_commit
    cursor_class.execute = patched_execute
    cursor_class.copy = patched_copy
    module.Transaction.__exit__ = patched_exit


def _transaction_of(connection: Any) -> dict[str, Any]:
    found: dict[str, Any] = connection.__dict__.setdefault("_chaos_transaction", {"ids": {}, "writes": set()})
    return found


def _database_kind(name: str) -> str:
    return {_LEDGER_DATABASE: "ledger", _WAREHOUSE_DATABASE: "warehouse"}.get(name, "source")


def _text_of(query: Any) -> str:
    if isinstance(query, bytes):
        return query.decode(errors="replace")
    return query if isinstance(query, str) else str(query.as_string(None))


def _label(text: str) -> str:
    """Return what a statement does, without the names of a trial. Reads are all of one kind."""
    words = text.split()
    if words[0] in {"SELECT", "SET"}:
        return "SET" if "set_config(" in text else words[0]
    if words[0] == "COMMENT":
        return "COMMENT ON"
    plain = re.sub(r"public\.\w+", "the table", text.replace('"', ""))
    plain = re.sub(r"chaos_\d+(__base)?\.\w+", lambda match: "base" if match[1] else "view", plain)
    plain = re.sub(r"chaos_\d+(__base)?", "…", plain).replace("pg_temp._esclusa_stage", "stage")
    # Up to the first list of columns: what comes then tells nothing new.
    return " ".join(plain.partition("(")[0].split()[:8])


#: What a transaction of the ledger decides, told by the tables it writes: the first that fits.
_DECISIONS = (
    ({"INSERT batch"}, "plan"),
    ({"INSERT attempt"}, "claim"),
    ({"INSERT manifest"}, "complete"),
    ({"UPDATE attempt", "UPDATE batch"}, "end attempt"),
    ({"UPDATE attempt"}, "renew lease"),
    ({"UPDATE data_file", "UPDATE batch"}, "refuse file"),
    ({"UPDATE batch", "INSERT batch_event"}, "open gate"),
    ({"UPDATE data_file"}, "record file"),
    ({"UPDATE batch"}, "wake"),
    ({"UPDATE outbox"}, "mark sent"),
    ({"DELETE outbox"}, "mark sent"),
    ({"INSERT contract"}, "register contract"),
    ({"INSERT outbox"}, "post messages"),
)


def _decision(writes: set[str]) -> str:
    if not writes:
        return "read"
    for needed, name in _DECISIONS:
        if needed <= writes:
            return name
    return "write " + ", ".join(sorted(writes))


# ---- how it gets in ----------------------------------------------------------------------------------------------

_PATCHES = {"botocore.client": _patch_botocore, "psycopg": _patch_psycopg}


class _PatchingLoader(Loader):
    """Loads a module as ever, and patches it then."""

    def __init__(self, loader: Loader, patch: Callable[[ModuleType], None]) -> None:
        self._loader = loader
        self._patch = patch

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        self._patch(module)


class _PatchingFinder(MetaPathFinder):
    """Finds the modules to patch, once each."""

    def find_spec(self, name: str, path: Any, target: ModuleType | None = None) -> ModuleSpec | None:
        patch = _PATCHES.pop(name, None)
        spec = PathFinder.find_spec(name, path, target) if patch else None
        if patch is None or spec is None or spec.loader is None:
            return None
        spec.loader = _PatchingLoader(spec.loader, patch)
        return spec


if os.environ.get(CONTROLLER_VARIABLE):
    sys.meta_path.insert(0, _PatchingFinder())
