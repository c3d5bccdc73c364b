"""
What a role may do, decided as IAM decides it: allowed by a statement, and denied by none.

Small on purpose: actions and resources with wildcards, and the conditions that our policies use.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any

ACCOUNT, REGION = "123456789012", "eu-west-1"

#: What the pseudo parameters of CloudFormation stand for.
_PSEUDO = {"AWS::Partition": "aws", "AWS::Region": REGION, "AWS::AccountId": ACCOUNT}

#: What is true of every request that our own code makes in its own account.
OWN_REQUEST = {"s3:ResourceAccount": ACCOUNT, "aws:SourceAccount": ACCOUNT, "aws:SecureTransport": "true"}


def is_allowed(
    statements: Sequence[Mapping[str, Any]],
    action: str,
    resource: str,
    context: Mapping[str, str] = OWN_REQUEST,
) -> bool:
    """Return whether these statements, taken from a template, allow an action on a resource."""
    effects = {
        statement["Effect"]
        for statement in statements
        if any(_matches(pattern, action) for pattern in _list(statement["Action"]))
        and any(_matches(resolved(pattern), resource) for pattern in _list(statement["Resource"]))
        and _conditions_hold(statement.get("Condition", {}), context)
    }
    return effects == {"Allow"}


def _conditions_hold(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    for operator, wanted in conditions.items():
        for key, value in wanted.items():
            patterns = [resolved(item) for item in _list(value)]
            if operator not in {"StringEquals", "StringLike", "ArnLike", "Bool"}:
                raise NotImplementedError(operator)
            # A key that the request does not have makes the condition false.
            if key not in context or not any(_matches(pattern, context[key]) for pattern in patterns):
                return False
    return True


def resolved(value: Any) -> str:
    """Return a text of a template as CloudFormation fills it in."""
    if isinstance(value, str):
        return value
    if "Ref" in value:
        return _PSEUDO[value["Ref"]]
    return re.sub(r"\$\{([^}]+)\}", lambda found: _PSEUDO[found[1]], value["Fn::Sub"])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, text: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None
