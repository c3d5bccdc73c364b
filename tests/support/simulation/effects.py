"""What a batch does outside its own process on its whole way, by name, and what can go wrong with each of it."""

from enum import StrEnum


class Fault(StrEnum):
    """What can happen to a side effect."""

    NONE = "none"
    #: The process dies before it; of a transaction, before its commit.
    KILL_BEFORE = "killed before"
    #: The process dies after it.
    KILL_AFTER = "killed after"
    #: It happens, but the caller is told that nobody answered.
    REPLY_LOST = "reply lost"
    #: It does not happen; the caller is told that nobody answered (a 503, a broken connection).
    REFUSED = "refused"
    #: The process stands still, its lease runs out, often the sweeper's patience too, and then it goes on.
    STALL = "stalled"
    #: It happens twice: a client or a proxy repeated the request, or a queue delivered a message to two.
    DUPLICATE = "twice"


#: The modes of the sweep.
FAULTS = tuple(fault for fault in Fault if fault is not Fault.NONE)

#: Every side effect. A transaction of the ledger is named by what it does; those that only read are one.
EFFECTS = {
    "source.clock": "ask the source for its clock",
    "source.open_since": "ask the source for open transactions",
    "source.open_snapshot": "begin to read the source",
    "source.read": "read rows of the source",
    "source.fingerprint": "ask the source for its columns again",
    "secrets.resolve": "ask for a secret",
    "ledger.look": "read the ledger",
    "ledger.exclusively": "take a named lock of the ledger",
    "ledger.register_source": "record places and expectations of a source",
    "ledger.plan": "plan the due windows of a table",
    "ledger.claim": "claim an attempt",
    "ledger.renew": "renew a lease",
    "ledger.complete": "record what an attempt made",
    "ledger.fail_attempt": "record that an attempt failed",
    "ledger.let_go": "let a batch go whose worker is told to stop",
    "ledger.refuse_attempt": "record that an attempt refused its batch",
    "ledger.record_correct": "record that a file is correct",
    "ledger.record_incorrect": "record that a file is incorrect",
    "ledger.open_gate": "let a batch through a gate",
    "ledger.record_foreign": "record an object that nobody of ours wrote",
    "ledger.record_set_aside": "record a copy in quarantine/",
    "ledger.record_deleted": "record that objects are gone",
    "ledger.expire_attempt": "free the batch of a dead worker",
    "ledger.wake": "send the messages of a batch again",
    "ledger.start_deferred": "give free places at a source away",
    "ledger.post": "ask the cleaner to look at leftovers",
    "ledger.mark_sent": "take sent messages out of the outbox",
    "ledger.replay": "replay a held batch",
    "ledger.discard": "give a held batch up",
    "ledger.plan_again": "plan a second reading of a window for its rejected rows",
    "ledger.discard_rejects": "give rejected rows up",
    "store.open_upload": "begin an object",
    "store.write_part": "send a part of an object",
    "store.complete_upload": "make an object appear",
    "store.give_up_upload": "abort an own upload",
    "store.put": "write a small object",
    "store.head": "ask for an object's size and metadata",
    "store.sha256": "ask for an object's checksum",
    "store.read": "read a slice of an object",
    "store.open": "begin to read an object",
    "store.read_body": "read on in an object",
    "store.copy": "copy an object",
    "store.delete": "delete an object",
    "store.list": "list an area",
    "store.open_uploads": "list uploads left open",
    "store.abort_upload": "abort an upload left open",
    "queue.send": "send messages of the outbox",
    "queue.receive": "receive a message",
    "queue.acknowledge": "delete a message",
    "queue.hide": "put a message back for a while",
    "warehouse.load": "commit rows and marker in the warehouse",
    "catalog.put_partition": "show a batch in the lake",
    "catalog.put_snapshot": "show a snapshot in the lake",
}

#: The writing functions of `shared.lifecycle` that give a transaction its name.
TRANSACTIONS_BY_LIFECYCLE = frozenset(
    name.removeprefix("ledger.") for name in EFFECTS if name.startswith("ledger.")
) - {"look", "exclusively", "register_source", "post", "mark_sent"}


class Killed(BaseException):
    """The process is gone. No handler of ours may catch it."""
