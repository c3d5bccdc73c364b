"""The evaluator that the matrix is tried with decides as IAM does, in what our policies use."""

from typing import Any

import pytest
from support.iam import is_allowed

ANYTHING = {"Effect": "Allow", "Action": ["s3:*"], "Resource": ["*"]}


def read(resource: str, **more: Any) -> dict[str, Any]:
    return {"Effect": "Allow", "Action": ["s3:GetObject"], "Resource": [resource], **more}


def test_what_nothing_allows_is_denied() -> None:
    assert not is_allowed([], "s3:GetObject", "arn:aws:s3:::b/k")
    assert not is_allowed([read("arn:aws:s3:::b/*")], "s3:PutObject", "arn:aws:s3:::b/k")
    assert not is_allowed([read("arn:aws:s3:::b/*")], "s3:GetObject", "arn:aws:s3:::c/k")


def test_a_deny_outweighs_every_allow() -> None:
    deny = {"Effect": "Deny", "Action": ["s3:GetObject"], "Resource": ["*/secret"]}

    assert is_allowed([ANYTHING, deny], "s3:GetObject", "arn:aws:s3:::b/open")
    assert not is_allowed([deny, ANYTHING, ANYTHING], "s3:GetObject", "arn:aws:s3:::b/secret")


@pytest.mark.parametrize(
    ("pattern", "resource", "expected"),
    [
        ("arn:aws:s3:::b-*/tmp/*", "arn:aws:s3:::b-x/final/tmp/k", True),  # a star spans slashes
        ("arn:aws:s3:::b/?", "arn:aws:s3:::b/ab", False),
        ("arn:aws:s3:::b/k", "arn:aws:s3:::b/K", False),  # resources are compared to the letter
        ("arn:aws:s3:::b/[k]", "arn:aws:s3:::b/k", False),
    ],
)
def test_wildcards_are_those_of_iam(pattern: str, resource: str, expected: bool) -> None:
    assert is_allowed([read(pattern)], "s3:GetObject", resource) is expected


def test_actions_are_compared_in_any_case() -> None:
    assert is_allowed([read("*")], "S3:getobject", "arn:aws:s3:::b/k")


@pytest.mark.parametrize(
    ("condition", "context", "expected"),
    [
        ({"StringEquals": {"k": "v"}}, {"k": "v"}, True),
        ({"StringEquals": {"k": "*"}}, {"k": "v"}, False),  # a star is a star here
        ({"StringEquals": {"k": ["v", "w"]}}, {"k": "w"}, True),
        ({"StringLike": {"k": "v*"}}, {"k": "vw"}, True),
        ({"ArnLike": {"k": "arn:aws:s3:::a-*"}}, {"k": "arn:aws:s3:::b"}, False),
        ({"Bool": {"k": "false"}}, {"k": "False"}, True),
        ({"StringEquals": {"k": "v"}}, {}, False),  # what the request does not have is not equal
        ({"StringEquals": {"k": "v", "l": "w"}}, {"k": "v"}, False),  # every key has to hold
        ({"StringEquals": {"k": "v"}, "Bool": {"l": "true"}}, {"k": "v", "l": "false"}, False),
        ({"StringEquals": {"k": "${aws:userid}"}}, {"k": "me", "aws:userid": "me"}, True),
        ({"StringEquals": {"k": "${aws:userid}"}}, {"k": "you", "aws:userid": "me"}, False),
    ],
)
def test_conditions_hold_if_every_key_of_every_operator_does(
    condition: dict[str, Any], context: dict[str, str], expected: bool
) -> None:
    assert is_allowed([read("*", Condition=condition)], "s3:GetObject", "any", context) is expected


def test_an_operator_that_it_does_not_know_is_an_error() -> None:
    with pytest.raises(NotImplementedError):
        is_allowed([read("*", Condition={"NumericLessThan": {"k": "1"}})], "s3:GetObject", "any", {"k": "0"})
