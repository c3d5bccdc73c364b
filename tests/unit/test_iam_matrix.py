"""Each role may do the lines of `infra.matrix`, and nothing else: every line is tried both ways on the policies."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from support.iam import ACCOUNT, OWN_REQUEST, REGION, is_allowed, statements_of

from infra import matrix
from infra.plan import FUNCTION_QUEUES, SCHEDULES, SERVICE_ROLES, PackagedCode, Plan, RedshiftTarget
from infra.templates import shared_template
from shared.domain.contracts import Origin, SourceKind
from shared.domain.files import Area, copy_key, quarantine_key, raw_key, rejects_key

KEY = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/buckets"
TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:on-call"
WORKGROUP = f"arn:aws:redshift-serverless:{REGION}:{ACCOUNT}:workgroup/analytics"

PLAN = Plan(
    prefix="esclusa",
    ledger_dsn="secretsmanager:esclusa/ledger#dsn",
    warehouse_dsn="secretsmanager:esclusa/warehouse#dsn",
    code=PackagedCode("esclusa-code", "lambdas.zip"),
    ca_certificates="secretsmanager:esclusa/rds#ca",
    kms_key_arn=KEY,
    alarm_webhook_url="secretsmanager:esclusa/alarms#url",
    alarm_topic_arn=TOPIC,
    redshift=RedshiftTarget(WORKGROUP),
)
ORIGINS = [
    Origin(
        "shop",
        SourceKind.POSTGRES,
        {"dsn": "secretsmanager:esclusa/sources/shop#dsn"},
        {"k1": "secretsmanager:esclusa/masks/2026#k1"},
    ),
    Origin(
        "crm",
        SourceKind.REST,
        {"base_url": "secretsmanager:crm#url"},
        {"k1": "secretsmanager:mask-of-crm#k1"},
    ),
]
TEMPLATE = shared_template(PLAN, ORIGINS)
#: With either warehouse.
TEMPLATES = {True: TEMPLATE, False: shared_template(replace(PLAN, redshift=None), ORIGINS)}

BATCH = "b" + "0" * 24
_REFUSED = raw_key(Area.TMP, table="orders", batch_id=BATCH, attempt=1, part=0)
_KEYS = {
    matrix.QUARANTINED: quarantine_key(_REFUSED, sha256="0cc1" * 16),
    matrix.REJECTS: rejects_key(table="orders", batch_id=BATCH, attempt=1),
    matrix.FOR_COPY: copy_key("rows-00001.parquet", table="orders", batch_id=BATCH, attempt=2),
}


def arns(kind: str, name: str, role: str) -> list[str]:
    """What a resource of the matrix is called in the account; secrets of sources lie in a folder or anywhere."""
    here = f"{REGION}:{ACCOUNT}"
    secret = f"arn:aws:secretsmanager:{here}:secret:%s-AbCdEf"
    match kind:
        case "object" if name == matrix.OF_ANOTHER_BUCKET:
            return [f"arn:aws:s3:::others/{area}/orders/part-00000.csv" for area in Area]
        case "object":
            # Tables named as areas: their folders may not be taken for areas.
            tables = ["orders", *Area]
            keys = [raw_key(Area.TMP, table=table, batch_id=BATCH, attempt=1, part=0) for table in tables]
            own = [name + key.removeprefix("tmp/") for key in keys] if name.endswith("/") else [_KEYS[name]]
            return [f"arn:aws:s3:::esclusa-web-shop/{key}" for key in own]
        case "bucket":
            return ["arn:aws:s3:::esclusa-shop" if name == "our buckets" else "arn:aws:s3:::others"]
        case "queue":
            return [f"arn:aws:sqs:{here}:{'others' if name == 'another queue' else f'esclusa-{name}'}"]
        case "secret":
            names = {
                matrix.LEDGER: ["esclusa/ledger"],
                matrix.CERTIFICATES: ["esclusa/rds"],
                matrix.WAREHOUSE: ["esclusa/warehouse"],
                matrix.CONNECTIONS: ["esclusa/sources/shop", "crm"],
                matrix.MASK_KEYS: ["esclusa/masks/2026", "mask-of-crm"],
                matrix.WEBHOOK: ["esclusa/alarms"],
                matrix.OTHER_SECRET: [
                    "esclusa",
                    "esclusa/ledger-of-others",
                    "esclusa/source",
                    "others/ledger",
                ],
            }
            return [secret % found for found in names[name]]
        case "table":
            databases = ["esclusa_shop"] if name == matrix.OUR_TABLES else ["finance", "esclusas"]
            return [f"arn:aws:glue:{here}:table/{database}/orders" for database in databases]
        case "key":
            return [KEY if name == "the key of the buckets" else f"arn:aws:kms:{here}:key/others"]
        case "topic":
            return [TOPIC if name == "the topic of alarms" else f"{TOPIC}-of-others"]
        case "role":
            own_role = name.removeprefix("role of ")
            return [
                f"arn:aws:iam::{ACCOUNT}:role/{'admin' if name == 'another role' else f'esclusa-{own_role}'}"
            ]
        case "log":
            function = role if name == "its own log" else "other"
            return [f"arn:aws:logs:{here}:log-group:/aws/lambda/esclusa-{function}:log-stream:x"]
        case _:
            return [WORKGROUP if name == "our workgroup" else f"{WORKGROUP}-of-others"]


def lines(role: str, *, is_redshift: bool) -> Iterator[tuple[str, str, str, bool]]:
    """Every action on every resource of its kind: action, kind, resource, and whether the matrix allows it."""
    for action, kind in {**matrix.ACTIONS, **matrix.NEVER}.items():
        allowed = matrix.lines_of(role, is_redshift=is_redshift).get(action, ())
        assert set(allowed) <= set(matrix.KINDS[kind]), f"{role}: {action} on something of another kind"
        for name in matrix.KINDS[kind]:
            yield action, kind, name, name in allowed


@pytest.mark.parametrize("is_redshift", TEMPLATES)
@pytest.mark.parametrize("role", matrix.MATRIX)
def test_a_role_may_do_its_lines_of_the_matrix_and_nothing_else(role: str, is_redshift: bool) -> None:
    statements = statements_of(TEMPLATES[is_redshift], role)
    wrong = [
        f"{action} on {arn}: the matrix says {expected}"
        for action, kind, name, expected in lines(role, is_redshift=is_redshift)
        for arn in arns(kind, name, role)
        if is_allowed(statements, action, arn) is not expected
    ]

    assert wrong == []


@pytest.mark.parametrize("role", matrix.MATRIX)
def test_actions_without_resources_are_for_the_roles_that_are_named(role: str) -> None:
    statements = statements_of(TEMPLATE, role)

    allowed = {action for action in matrix.WITHOUT_RESOURCE if is_allowed(statements, action, "*")}

    assert allowed == {action for action, roles in matrix.WITHOUT_RESOURCE.items() if role in roles}


def test_the_matrix_names_every_role_and_every_action_that_any_policy_allows() -> None:
    assert set(matrix.MATRIX) == {*FUNCTION_QUEUES, *SCHEDULES, *SERVICE_ROLES, "operator", "host"}
    granted = {
        action
        for role in matrix.MATRIX
        for statement in statements_of(TEMPLATE, role)
        for action in statement["Action"]
        if statement["Resource"] != ["*"]
    }
    # Pulling images of the fleet's own repositories is the host's alone, and no business of the fleet.
    assert {action for action in granted - set(matrix.ACTIONS) if not action.startswith("ecr:")} == set()


@pytest.mark.parametrize("role", matrix.MATRIX)
def test_no_role_is_allowed_whole_services_or_anything_anywhere(role: str) -> None:
    for statement in statements_of(TEMPLATE, role):
        assert not [action for action in statement["Action"] if "*" in action]
        if statement["Resource"] == ["*"]:
            assert set(statement["Action"]) <= {
                *matrix.WITHOUT_RESOURCE,
                "ssm:UpdateInstanceInformation",
                *(
                    f"ssmmessages:{verb}{channel}Channel"
                    for verb in ("Create", "Open")
                    for channel in ("Control", "Data")
                ),
            }


@pytest.mark.parametrize("role", matrix.MATRIX)
def test_a_bucket_of_another_account_is_out_of_reach_whatever_it_is_called(role: str) -> None:
    elsewhere = OWN_REQUEST | {"s3:ResourceAccount": "999999999999"}

    for action, kind in matrix.ACTIONS.items():
        if kind in {"object", "bucket"}:
            for name in matrix.KINDS[kind]:
                for arn in arns(kind, name, role):
                    assert not is_allowed(statements_of(TEMPLATE, role), action, arn, elsewhere)


def test_the_key_of_the_buckets_opens_nothing_but_what_s3_hands_to_it() -> None:
    directly = {name: value for name, value in OWN_REQUEST.items() if name != "kms:ViaService"}

    assert not is_allowed(statements_of(TEMPLATE, "processor"), "kms:Decrypt", KEY, directly)


def test_nobody_asks_after_statements_of_others_in_the_warehouse() -> None:
    others = OWN_REQUEST | {"redshift-data:statement-owner-iam-userid": "AROAOTHER:session"}

    for action in matrix.WITHOUT_RESOURCE:
        if action.startswith("redshift-data:"):
            assert not is_allowed(statements_of(TEMPLATE, "publisher"), action, "*", others)


def test_the_credentials_of_a_cluster_are_for_one_database() -> None:
    cluster = f"arn:aws:redshift:{REGION}:{ACCOUNT}:cluster:lake"
    template = shared_template(replace(PLAN, redshift=RedshiftTarget(cluster, "analytics")), ORIGINS)
    statements = statements_of(template, "publisher")
    action, database = (
        "redshift:GetClusterCredentialsWithIAM",
        f"arn:aws:redshift:{REGION}:{ACCOUNT}:dbname:lake",
    )

    assert is_allowed(statements, action, f"{database}/analytics")
    assert not is_allowed(statements, action, f"{database}/finance")
    assert is_allowed(statements, "redshift-data:ExecuteStatement", cluster)
    assert not is_allowed(statements, "redshift:GetClusterCredentials", f"{database}/analytics")
    assert not is_allowed(statements, "redshift-data:ExecuteStatement", WORKGROUP)


@pytest.mark.parametrize("role", ["gate-tmp", "extractor", "processor", "publisher"])
def test_a_folder_of_an_area_s_name_within_another_area_is_not_that_area(role: str) -> None:
    statements = statements_of(TEMPLATE, role)

    for outer in Area:
        for inner in Area:
            arn = f"arn:aws:s3:::esclusa-shop/{outer}/{inner}/x.csv"
            written = is_allowed(statements, "s3:PutObject", arn)
            assert not written or f"{outer}/" in matrix.MATRIX[role].get("s3:PutObject", ()), arn


def test_the_data_api_signs_in_as_the_settings_say() -> None:
    cluster = f"arn:aws:redshift:{REGION}:{ACCOUNT}:cluster:lake"
    secret = f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:redshift-AbCdEf"

    def publisher(target: RedshiftTarget) -> list[dict[str, Any]]:
        return statements_of(shared_template(replace(PLAN, redshift=target), []), "publisher")

    by_user = publisher(RedshiftTarget(cluster, "analytics", db_user="esclusa"))
    by_secret = publisher(RedshiftTarget(WORKGROUP, secret_arn=secret))
    user = cluster.replace(":cluster:", ":dbuser:")
    assert is_allowed(by_user, "redshift:GetClusterCredentials", f"{user}/esclusa")
    assert not is_allowed(by_user, "redshift:GetClusterCredentials", f"{user}/admin")
    assert is_allowed(by_secret, "secretsmanager:GetSecretValue", secret)
    assert not is_allowed(by_secret, "redshift-serverless:GetCredentials", WORKGROUP)


# ---- who may take a role -----------------------------------------------------------------------------------------

PROVIDER = f"arn:aws:iam::{ACCOUNT}:oidc-provider/oidc.eks.eu-west-1.amazonaws.com/id/ABC"


def trust_of(role: str, plan: Plan = PLAN) -> list[dict[str, Any]]:
    resources = shared_template(plan, [])["Resources"]
    name = f"{''.join(word.capitalize() for word in role.split('-'))}Role"
    return list(resources[name]["Properties"]["AssumeRolePolicyDocument"]["Statement"])


@pytest.mark.parametrize("function", [*FUNCTION_QUEUES, *SCHEDULES])
def test_the_role_of_a_function_is_taken_by_lambda_alone(function: str) -> None:
    (statement,) = trust_of(function)

    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}


@pytest.mark.parametrize("role", SERVICE_ROLES)
def test_the_role_of_a_service_is_taken_by_our_hosts_and_by_its_own_service_account(role: str) -> None:
    host, account = trust_of(role, replace(PLAN, oidc_provider_arn=PROVIDER))

    issuer = "oidc.eks.eu-west-1.amazonaws.com/id/ABC"
    assert host["Principal"] == {"AWS": {"Fn::GetAtt": ["HostRole", "Arn"]}}
    assert account["Principal"] == {"Federated": PROVIDER}
    assert account["Condition"] == {
        "StringEquals": {
            f"{issuer}:sub": f"system:serviceaccount:esclusa:{role}",
            f"{issuer}:aud": "sts.amazonaws.com",
        }
    }
    assert [statement["Action"] for statement in trust_of(role)] == ["sts:AssumeRole"]


def test_the_role_of_a_host_is_taken_by_instances_alone() -> None:
    (statement,) = trust_of("host")

    assert statement["Principal"] == {"Service": "ec2.amazonaws.com"}


def test_the_page_has_the_table_of_now() -> None:
    page = matrix.PAGE.read_text()

    assert page == matrix.page_with_table(page), "run: python -m infra.matrix --write"
