"""Waiting for a stack: it is not over before it has begun."""

from typing import Any

import pytest

from infra.deploy import ChangeSet, carry_out
from shared.errors import ConfigurationError

CHANGE_SET = ChangeSet("acme-shared", "esclusa-1", is_new=False, changes=())


class CloudFormation:
    """A stack whose states and events come one after the other, the state first."""

    def __init__(self, *moments: tuple[str, list[tuple[str, str]]]) -> None:
        self.moments = list(moments)
        self.events = [("0", "UPDATE_COMPLETE")]

    def execute_change_set(self, **_: Any) -> None: ...

    def describe_stacks(self, **_: Any) -> dict[str, Any]:
        status, events = self.moments.pop(0)
        self.events += events
        return {"Stacks": [{"StackStatus": status}]}

    def describe_events(self, **_: Any) -> dict[str, Any]:
        return {"OperationEvents": []}

    def get_paginator(self, _: str) -> "CloudFormation":
        return self

    def paginate(self, **_: Any) -> list[dict[str, Any]]:
        found = [
            {"EventId": number, "LogicalResourceId": "Queue", "ResourceStatus": status}
            for number, status in reversed(self.events)
        ]
        return [{"StackEvents": found}]


BEGINNING = [("UPDATE_COMPLETE", []), ("UPDATE_COMPLETE", [("1", "UPDATE_IN_PROGRESS")])]


def test_the_end_of_the_change_before_is_not_taken_for_the_end_of_this_one() -> None:
    client: Any = CloudFormation(
        *BEGINNING,
        ("UPDATE_IN_PROGRESS", [("2", "UPDATE_FAILED")]),
        ("UPDATE_ROLLBACK_COMPLETE", []),
    )

    with pytest.raises(ConfigurationError, match="acme-shared failed: Queue"):
        carry_out(client, CHANGE_SET)


def test_a_stack_that_was_done_at_once_is_done() -> None:
    client: Any = CloudFormation(
        ("UPDATE_COMPLETE", [("1", "UPDATE_IN_PROGRESS"), ("2", "UPDATE_COMPLETE")]), ("UPDATE_COMPLETE", [])
    )

    carry_out(client, CHANGE_SET)

    assert client.moments == []
