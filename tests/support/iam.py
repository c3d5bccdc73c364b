"""
What a role may do, decided as IAM decides it: allowed by a statement, and denied by none.

Small on purpose: actions and resources with wildcards, and the conditions that our policies use; another operator is an
error. No library on the index evaluates policies: those there are lint them, or ask AWS.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from infra.names import logical_id

ACCOUNT, REGION = "123456789012", "eu-west-1"

#: What the pseudo parameters of CloudFormation stand for.
PSEUDO = {
    "AWS::Partition": "aws",
    "AWS::Region": REGION,
    "AWS::AccountId": ACCOUNT,
    "AWS::URLSuffix": "amazonaws.com",
}

#: What is true of every request that our own code makes in its own account.
OWN_REQUEST = {
    "s3:ResourceAccount": ACCOUNT,
    "aws:SourceAccount": ACCOUNT,
    "aws:SecureTransport": "true",
    "aws:userid": "AROAEXAMPLE:session",
    "kms:ViaService": f"s3.{REGION}.amazonaws.com",
    "redshift-data:statement-owner-iam-userid": "AROAEXAMPLE:session",
}


def statements_of(template: Mapping[str, Any], role: str) -> list[dict[str, Any]]:
    """Return every statement of a role of a template, those of its managed policies too; or of a managed policy."""
    resources = template["Resources"]
    if logical_id(role, "role") not in resources:
        document = resources[logical_id(role, "policy")]["Properties"]["PolicyDocument"]
        return list(document["Statement"])
    properties = resources[logical_id(role, "role")]["Properties"]
    documents = [policy["PolicyDocument"] for policy in properties["Policies"]]
    documents += [
        resources[policy["Ref"]]["Properties"]["PolicyDocument"] for policy in properties["ManagedPolicyArns"]
    ]
    return [statement for document in documents for statement in document["Statement"]]


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
        if any(_matches(pattern.lower(), action.lower()) for pattern in _list(statement["Action"]))
        and any(_matches(resolved(pattern), resource) for pattern in _list(statement["Resource"]))
        and _conditions_hold(statement.get("Condition", {}), context)
    }
    return effects == {"Allow"}


def _conditions_hold(conditions: Mapping[str, Mapping[str, Any]], context: Mapping[str, str]) -> bool:
    for operator, wanted in conditions.items():
        if operator not in _OPERATORS:
            raise NotImplementedError(operator)
        for key, value in wanted.items():
            patterns = [_variables_filled_in(resolved(item), context) for item in _list(value)]
            # A key that the request does not have makes the condition false.
            if key not in context or not any(
                _OPERATORS[operator](pattern, context[key]) for pattern in patterns
            ):
                return False
    return True


def _variables_filled_in(text: str, context: Mapping[str, str]) -> str:
    return re.sub(r"\$\{(aws:[^}]+)\}", lambda found: context[found[1]], text)


def resolved(value: Any) -> str:
    """Return a text of a template as CloudFormation fills it in; of an attribute, what it is an attribute of."""
    if isinstance(value, str):
        return value
    if "Ref" in value:
        return PSEUDO[value["Ref"]]
    if "Fn::GetAtt" in value:
        return ".".join(value["Fn::GetAtt"])
    return re.sub(r"\$\{([^}]+)\}", lambda found: PSEUDO[found[1]], value["Fn::Sub"])


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _matches(pattern: str, text: str) -> bool:
    expression = "".join({"*": ".*", "?": "."}.get(sign, re.escape(sign)) for sign in pattern)
    return re.fullmatch(expression, text, re.DOTALL) is not None


_OPERATORS: Mapping[str, Callable[[str, str], bool]] = {
    "StringEquals": lambda pattern, found: pattern == found,
    "StringLike": _matches,
    "ArnLike": _matches,
    "Bool": lambda pattern, found: pattern.lower() == found.lower(),
}
