"""
Roles of services, who may take them, and the secrets of sources in managed policies.

A managed policy holds 6,144 characters, and a role takes ten of them: connections and mask keys are spread over as many
policies as they need, and secrets that lie in the fleet's folders cost one line together.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.names import (
    host_role_name,
    logical_id,
    mask_keys_folder,
    role_name,
    source_secrets_folder,
)
from infra.plan import AUDITOR, OPERATOR, PLANNER, SERVICE_ROLES, UPKEEP, WORKER_QUEUES, Plan
from infra.policies import (
    Statement,
    host_statements,
    operator_statements,
    outbox_statements,
    secret_statements,
    service_statements,
)
from shared.domain.contracts import Origin
from shared.errors import ConfigurationError

Template = dict[str, Any]

#: Source: IAM User Guide, "IAM and AWS STS quotas": characters without white space, and policies by default.
MAX_MANAGED_POLICY_CHARACTERS = 6_144
MAX_MANAGED_POLICIES_OF_A_ROLE = 10
MAX_INLINE_POLICIES_CHARACTERS = 10_240

OUTBOX_POLICY = "OutboxPolicy"

#: Which secrets of sources a role reads.
_READS_CONNECTIONS = ("extractor", PLANNER, AUDITOR)
_READS_MASK_KEYS = ("extractor", AUDITOR)

#: The longest that stands for a pseudo parameter in the partitions there are.
_LONGEST = {"AWS::Partition": "aws-us-gov", "AWS::Region": "ap-southeast-2", "AWS::AccountId": "1" * 12}


@dataclass(frozen=True, slots=True)
class SourceSecrets:
    """The managed policies over secrets of sources: logical ids by what they are for, and the resources."""

    connections: tuple[str, ...]
    mask_keys: tuple[str, ...]
    resources: Template


def service_roles(plan: Plan, origins: Sequence[Origin], *, key: Any) -> Template:
    """Return the roles of all services, their policies, and what EC2 instances and people need."""
    secrets = _source_secrets(plan, origins)
    resources: Template = {
        OUTBOX_POLICY: managed_policy(plan, "outbox", outbox_statements(plan.prefix)),
        **secrets.resources,
    }
    for role in SERVICE_ROLES:
        resources[logical_id(role, "role")] = _service_role(plan, role, secrets, key=key)
    resources["OperatorPolicy"] = managed_policy(plan, OPERATOR, operator_statements(plan, key=key))
    return resources | _host(plan)


def managed_policy(plan: Plan, name: str, statements: Sequence[Statement]) -> Template:
    """Return a managed policy of the fleet."""
    return {
        "Type": "AWS::IAM::ManagedPolicy",
        "Properties": {
            "ManagedPolicyName": role_name(plan.prefix, name),
            "PolicyDocument": _document(statements),
        },
    }


def role(
    name: str, statements: Sequence[Statement], *, trust: Sequence[Statement], managed: Iterable[str]
) -> Template:
    """Return a role with one policy of its own."""
    return {
        "Type": "AWS::IAM::Role",
        "Properties": {
            "RoleName": name,
            "AssumeRolePolicyDocument": _document(trust),
            "ManagedPolicyArns": [{"Ref": policy} for policy in managed],
            "Policies": [{"PolicyName": "work", "PolicyDocument": _document(statements)}],
        },
    }


def taken_by_service(service: str) -> list[Statement]:
    """Return that a service of AWS may take a role."""
    return [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}]


def _document(statements: Sequence[Statement]) -> Template:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _service_role(plan: Plan, name: str, secrets: SourceSecrets, *, key: Any) -> Template:
    managed = [OUTBOX_POLICY] if name in {*WORKER_QUEUES, PLANNER, UPKEEP} else []
    managed += secrets.connections if name in _READS_CONNECTIONS else ()
    managed += secrets.mask_keys if name in _READS_MASK_KEYS else ()
    if len(managed) > MAX_MANAGED_POLICIES_OF_A_ROLE:
        raise ConfigurationError(
            f"role {role_name(plan.prefix, name)}: expected secrets of sources that fit into "
            f"{MAX_MANAGED_POLICIES_OF_A_ROLE} managed policies, found {len(managed)}; give them names that begin with "
            f"{source_secrets_folder(plan.prefix)} or {mask_keys_folder(plan.prefix)}, which cost one line together"
        )
    return role(
        role_name(plan.prefix, name),
        service_statements(plan, name, key=key),
        trust=_trust(plan, name),
        managed=managed,
    )


def _trust(plan: Plan, name: str) -> list[Statement]:
    """
    Return who may take the role of a service: an instance of ours, and a service account of the cluster.

    The keys of its conditions are named after the cluster's identity provider, which no function of CloudFormation
    can do: this is why it is written here, and no parameter.
    Source: Amazon EKS User Guide, "IAM roles for service accounts".
    """
    trust: list[Statement] = [
        {
            "Effect": "Allow",
            "Principal": {"AWS": {"Fn::GetAtt": ["HostRole", "Arn"]}},
            "Action": "sts:AssumeRole",
        }
    ]
    if plan.oidc_provider_arn is not None:
        issuer = plan.oidc_provider_arn.partition(":oidc-provider/")[2]
        account = f"system:serviceaccount:{plan.service_account_namespace}:{name}"
        trust.append(
            {
                "Effect": "Allow",
                "Principal": {"Federated": plan.oidc_provider_arn},
                "Action": "sts:AssumeRoleWithWebIdentity",
                "Condition": {
                    "StringEquals": {f"{issuer}:sub": account, f"{issuer}:aud": "sts.amazonaws.com"}
                },
            }
        )
    return trust


def _host(plan: Plan) -> Template:
    """Return the role of an instance that runs services: it does nothing but take theirs."""
    names = [role_name(plan.prefix, name) for name in SERVICE_ROLES]
    arn = "arn:${AWS::Partition}:iam::${AWS::AccountId}:role/"
    return {
        "HostRole": role(
            host_role_name(plan.prefix),
            # By name: the services' roles name this one already.
            host_statements(plan, [{"Fn::Sub": arn + name} for name in names]),
            trust=taken_by_service("ec2.amazonaws.com"),
            managed=(),
        ),
        "HostProfile": {
            "Type": "AWS::IAM::InstanceProfile",
            "Properties": {
                "InstanceProfileName": host_role_name(plan.prefix),
                "Roles": [{"Ref": "HostRole"}],
            },
        },
    }


# ---- secrets of sources --------------------------------------------------------------------------------------


def _source_secrets(plan: Plan, origins: Sequence[Origin]) -> SourceSecrets:
    connections = [reference for origin in origins for reference in origin.connection_references]
    mask_keys = [reference for origin in origins for reference in origin.mask_keys.values()]
    found: dict[str, Mapping[str, Template]] = {}
    for name, references, folder in (
        ("connections", connections, source_secrets_folder(plan.prefix)),
        ("mask-keys", mask_keys, mask_keys_folder(plan.prefix)),
    ):
        packed = packed_statements(secret_statements(references, folder=folder))
        found[name] = {
            logical_id(name, str(number), "policy"): managed_policy(plan, f"{name}-{number}", statements)
            for number, statements in enumerate(packed, start=1)
        }
    return SourceSecrets(
        connections=tuple(found["connections"]),
        mask_keys=tuple(found["mask-keys"]),
        resources={**found["connections"], **found["mask-keys"]},
    )


def packed_statements(statements: Iterable[Statement]) -> list[list[Statement]]:
    """Return statements in as many groups as there are managed policies needed, one resource after the other."""
    groups: list[list[Statement]] = []
    size = MAX_MANAGED_POLICY_CHARACTERS
    for statement in statements:
        frame = policy_characters([{**statement, "Resource": []}])
        is_open = False
        for resource in statement["Resource"]:
            length = policy_characters(resource) + 1
            if size + length + (0 if is_open else frame) > MAX_MANAGED_POLICY_CHARACTERS:
                groups.append([])
                size, is_open = policy_characters(_document([])), False
            if not is_open:
                groups[-1].append({**statement, "Resource": []})
                size, is_open = size + frame, True
            groups[-1][-1]["Resource"].append(resource)
            size += length
    return groups


def policy_characters(part: Any) -> int:
    """Return how many characters a part of a policy has at most once CloudFormation has filled it in."""
    return len(re.sub(r"\s", "", json.dumps(filled_in(part, _LONGEST))))


def filled_in(part: Any, values: Mapping[str, str]) -> Any:
    """Return a part of a template with `Ref` and `Fn::Sub` of pseudo parameters replaced."""
    match part:
        case {"Ref": str(name)} if len(part) == 1 and name in values:
            return values[name]
        case {"Fn::Sub": str(text)} if len(part) == 1:
            return re.sub(r"\$\{([^}!]+)\}", lambda found: values.get(found[1], found[0]), text)
        case dict():
            return {name: filled_in(item, values) for name, item in part.items()}
        case list():
            return [filled_in(item, values) for item in part]
        case _:
            return part
