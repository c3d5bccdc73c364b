"""The templates name what the code names, leave no door open, and give each role its lines and no others."""

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from cfnlint.api import ManualArgs, lint
from support.iam import ACCOUNT, OWN_REQUEST, REGION, is_allowed, resolved

from infra.names import (
    dead_letter_queue_name,
    function_name,
    logical_id,
    queue_name,
    stack_name,
)
from infra.templates import (
    FUNCTION_QUEUES,
    SCHEDULES,
    WATCHER,
    WORKER_QUEUES,
    InlineCode,
    PackagedCode,
    Plan,
    Template,
    bucket_template,
    shared_template,
    source_template,
)
from shared.celery_sqs import WorkerSettings
from shared.domain.contracts import Origin, SourceKind
from shared.domain.files import NEXT_AREA, Area, quarantine_key, rejects_key
from shared.lifecycle import GATE_QUEUES
from shared.ports import QueueName

ROOT = Path(__file__).resolve().parents[2]
FUNCTIONS = [*FUNCTION_QUEUES, *SCHEDULES]
GATES = {str(queue): area for area, queue in GATE_QUEUES.items()}

AWS = Plan(
    prefix="esclusa",
    ledger_dsn="secretsmanager:esclusa/ledger#dsn",
    warehouse_dsn="ssm:/esclusa/warehouse",
    code=PackagedCode("esclusa-code", "lambdas.zip"),
)
ORIGINS = [
    Origin(
        "shop",
        SourceKind.POSTGRES,
        {"dsn": "secretsmanager:esclusa/shop#dsn"},
        {"k1": "secretsmanager:esclusa/mask#k1"},
    ),
    Origin("web_crm", SourceKind.REST, {"base_url": "https://crm.example", "token": "ssm:/esclusa/crm"}),
]

SHARED = shared_template(AWS, ORIGINS)
SOURCE = source_template(AWS, source="web_crm", bucket="esclusa-web-crm", database="esclusa_web_crm")


def of_type(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == kind:
            yield name, resource["Properties"]


def statements_of(role: str) -> list[dict[str, Any]]:
    """The statements of a Lambda's role or of a worker's policy."""
    if role in WORKER_QUEUES:
        properties = SHARED["Resources"][logical_id(role, "policy")]["Properties"]
        return list(properties["PolicyDocument"]["Statement"])
    (policy,) = SHARED["Resources"][logical_id(role, "role")]["Properties"]["Policies"]
    return list(policy["PolicyDocument"]["Statement"])


def object_of(area: Area, bucket: str = "esclusa-shop") -> str:
    return f"arn:aws:s3:::{bucket}/{area}/orders/b1/a1/part-00000.csv"


def queue_arn(name: str) -> str:
    return f"arn:aws:sqs:{REGION}:{ACCOUNT}:{name}"


def secret_arn(name: str) -> str:
    return f"arn:aws:secretsmanager:{REGION}:{ACCOUNT}:secret:{name}-AbCdEf"


# ---- one word per thing ------------------------------------------------------------------------------------------


def test_every_queue_of_the_fleet_is_there_with_its_dead_letters_and_nothing_else() -> None:
    names = {properties["QueueName"] for _, properties in of_type(SHARED, "AWS::SQS::Queue")}

    expected = {queue_name("esclusa", queue) for queue in QueueName}
    assert names == expected | {dead_letter_queue_name("esclusa", queue) for queue in QueueName}


@pytest.mark.parametrize("queue", QueueName)
def test_every_queue_gives_up_in_its_own_dead_letters(queue: QueueName) -> None:
    properties = SHARED["Resources"][logical_id(queue, "queue")]["Properties"]

    (target, attribute) = properties["RedrivePolicy"]["deadLetterTargetArn"]["Fn::GetAtt"]
    dead_letters = SHARED["Resources"][target]["Properties"]
    assert attribute == "Arn"
    assert dead_letters["QueueName"] == dead_letter_queue_name("esclusa", queue)
    assert dead_letters["MessageRetentionPeriod"] >= properties["MessageRetentionPeriod"]
    assert properties["RedrivePolicy"]["maxReceiveCount"] >= 5


def test_every_function_is_a_folder_with_a_handler_and_every_handler_a_function() -> None:
    folders = {path.parent.name for path in (ROOT / "lambdas").glob("*/handler.py")}

    deployed = {properties["Handler"] for _, properties in of_type(SHARED, "AWS::Lambda::Function")}

    assert deployed == {f"lambdas.{folder}.handler.handle" for folder in folders}
    assert len(deployed) == len(FUNCTIONS) == 7


def test_inline_code_imports_the_same_handlers() -> None:
    plan = Plan(prefix="e", ledger_dsn="env:L", warehouse_dsn="env:W", code=InlineCode())

    functions = of_type(shared_template(plan, []), "AWS::Lambda::Function")

    for (_, inline), (_, packaged) in zip(functions, of_type(SHARED, "AWS::Lambda::Function"), strict=True):
        module = packaged["Handler"].removesuffix(".handle")
        assert inline["Code"]["ZipFile"] == f"from {module} import handle\n"


def test_every_function_is_called_by_its_queue_or_by_a_schedule() -> None:
    mapped = {
        properties["FunctionName"]["Ref"]: properties["EventSourceArn"]["Fn::GetAtt"][0]
        for _, properties in of_type(SHARED, "AWS::Lambda::EventSourceMapping")
    }
    scheduled = {
        target["Arn"]["Fn::GetAtt"][0]
        for _, properties in of_type(SHARED, "AWS::Events::Rule")
        for target in properties["Targets"]
    }

    assert mapped == {
        logical_id(function, "function"): logical_id(queue, "queue")
        for function, queue in FUNCTION_QUEUES.items()
    }
    assert scheduled == {logical_id(function, "function") for function in SCHEDULES}


def test_every_queue_has_one_kind_of_reader() -> None:
    readers = [*FUNCTION_QUEUES.values(), *chain.from_iterable(WORKER_QUEUES.values())]

    assert sorted(readers) == sorted(QueueName)


def test_every_mapping_reports_single_failures() -> None:
    for _, properties in of_type(SHARED, "AWS::Lambda::EventSourceMapping"):
        assert properties["FunctionResponseTypes"] == ["ReportBatchItemFailures"]
        assert properties["ScalingConfig"]["MaximumConcurrency"] >= 2  # the least that AWS takes


@pytest.mark.parametrize("queue", FUNCTION_QUEUES.values())
def test_a_message_stays_hidden_six_times_as_long_as_its_function_may_run(queue: QueueName) -> None:
    properties = SHARED["Resources"][logical_id(queue, "queue")]["Properties"]

    assert properties["VisibilityTimeout"] == 6 * AWS.function_timeout_seconds


def test_a_worker_and_its_queue_hide_a_message_equally_long() -> None:
    assert WorkerSettings().visibility_timeout_seconds == AWS.worker_visibility_timeout_seconds


def test_the_environment_of_a_function_names_every_queue_and_no_secret() -> None:
    for _, properties in of_type(SHARED, "AWS::Lambda::Function"):
        variables = properties["Environment"]["Variables"]
        text = re.sub(r"\$\{\w+\}", "https://queue", variables["ESCLUSA_QUEUE_URLS"]["Fn::Sub"])
        assert set(json.loads(text)) == {str(queue) for queue in QueueName}
        assert variables["ESCLUSA_LEDGER_DSN"] == "secretsmanager:esclusa/ledger#dsn"


def test_names_are_within_the_limits_of_aws_for_a_long_prefix() -> None:
    prefix = "a-company-with-a-long-name"

    assert all(len(dead_letter_queue_name(prefix, queue)) <= 80 for queue in QueueName)
    assert all(len(function_name(prefix, function)) <= 64 for function in FUNCTIONS)
    assert len(stack_name(prefix, "a_source_with_a_long_name")) <= 128


# ---- doors -------------------------------------------------------------------------------------------------------


def doors() -> dict[str, str]:
    """Prefix → queue of the notifications of a source's bucket."""
    (properties,) = (properties for _, properties in of_type(SOURCE, "AWS::S3::Bucket"))
    configured = properties["NotificationConfiguration"]["QueueConfigurations"]
    found = {}
    for door in configured:
        (rule,) = door["Filter"]["S3Key"]["Rules"]
        assert (door["Event"], rule["Name"]) == ("s3:ObjectCreated:*", "prefix")
        found[rule["Value"]] = door["Queue"]["Fn::Sub"].rpartition(":")[2]
    assert len(found) == len(configured)
    return found


def test_every_gated_area_has_a_door_to_its_own_gate_and_quarantine_has_none() -> None:
    assert doors() == {f"{area}/": queue_name("esclusa", queue) for area, queue in GATE_QUEUES.items()}
    assert set(GATE_QUEUES) == set(Area) - {Area.QUARANTINE}


@pytest.mark.parametrize("gate", GATES)
def test_no_gate_can_write_where_its_own_events_come_from(gate: str) -> None:
    own = GATES[gate]
    writable = {area for area in Area if is_allowed(statements_of(gate), "s3:PutObject", object_of(area))}

    assert own not in writable
    assert writable == ({NEXT_AREA[own]} if own in NEXT_AREA else set())


def test_only_events_of_our_own_buckets_reach_a_gate() -> None:
    ((_, properties),) = of_type(SHARED, "AWS::SQS::QueuePolicy")
    (statement,) = properties["PolicyDocument"]["Statement"]
    anywhere = [statement | {"Resource": "*"}]

    def reaches(bucket: str, account: str = ACCOUNT) -> bool:
        context = {"aws:SourceArn": f"arn:aws:s3:::{bucket}", "aws:SourceAccount": account}
        return is_allowed(anywhere, "sqs:SendMessage", queue_arn("esclusa-gate-tmp"), context)

    assert statement["Principal"] == {"Service": "s3.amazonaws.com"}
    assert {item["Ref"] for item in properties["Queues"]} == {
        logical_id(queue, "queue") for queue in GATE_QUEUES.values()
    }
    assert reaches("esclusa-shop")
    assert not reaches("esclusa-shop", account="999999999999")
    assert not reaches("another-bucket")


# ---- buckets -----------------------------------------------------------------------------------------------------


def test_a_bucket_is_private_encrypted_and_outlives_its_stack() -> None:
    bucket = SOURCE["Resources"]["Bucket"]

    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["Properties"]["BucketEncryption"]
    assert bucket["Properties"]["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_a_bucket_is_reached_by_tls_only() -> None:
    (statement,) = SOURCE["Resources"]["BucketPolicy"]["Properties"]["PolicyDocument"]["Statement"]
    everything = [{"Effect": "Allow", "Action": "*", "Resource": "*"}, statement | {"Resource": "*"}]

    plain = is_allowed(everything, "s3:GetObject", object_of(Area.TMP), {"aws:SecureTransport": "false"})

    assert not plain
    assert is_allowed(everything, "s3:GetObject", object_of(Area.TMP))
    assert statement["Principal"] == "*"


def test_nothing_that_the_ledger_still_needs_expires() -> None:
    rules = SOURCE["Resources"]["Bucket"]["Properties"]["LifecycleConfiguration"]["Rules"]

    expiring = {rule["Prefix"] for rule in rules if "ExpirationInDays" in rule}

    assert expiring == {"tmp/", "quarantine/"}
    assert any("AbortIncompleteMultipartUpload" in rule for rule in rules)


def test_the_template_that_adopts_a_bucket_leaves_everything_to_the_update_after_it() -> None:
    adopting = bucket_template(bucket="esclusa-web-crm")["Resources"]["Bucket"]

    full = SOURCE["Resources"]["Bucket"]
    assert adopting["Properties"] == {"BucketName": full["Properties"]["BucketName"]}
    assert {**adopting, "Properties": {}} == {**full, "Properties": {}}


# ---- roles -------------------------------------------------------------------------------------------------------

#: Which areas each role may touch, by action. What is not here is denied.
OBJECTS: Mapping[str, Mapping[str, set[Area]]] = {
    "gate-tmp": {"s3:GetObject": {Area.TMP, Area.INPUT}, "s3:PutObject": {Area.INPUT}},
    "gate-input": {"s3:GetObject": {Area.INPUT, Area.PROCESSING}, "s3:PutObject": {Area.PROCESSING}},
    "gate-processing": {"s3:GetObject": {Area.PROCESSING}},
    "gate-final": {"s3:GetObject": {Area.FINAL}},
    "cleaner": {
        "s3:GetObject": set(Area),
        "s3:PutObject": {Area.QUARANTINE},
        "s3:DeleteObject": set(Area),
    },
    "sweeper": {
        "s3:DeleteObject": set(Area) - {Area.QUARANTINE},
        "s3:AbortMultipartUpload": set(Area),
    },
    "extractor": {
        "s3:GetObject": {Area.TMP},
        "s3:PutObject": {Area.TMP},
        "s3:AbortMultipartUpload": {Area.TMP},
    },
    "processor": {
        "s3:GetObject": {Area.PROCESSING, Area.FINAL, Area.QUARANTINE},
        "s3:PutObject": {Area.FINAL, Area.QUARANTINE},
        "s3:AbortMultipartUpload": {Area.FINAL, Area.QUARANTINE},
    },
    "publisher": {"s3:GetObject": {Area.FINAL}},
    "watcher": {},
}
ACTIONS = ["s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload"]


@pytest.mark.parametrize("role", OBJECTS)
def test_a_role_touches_objects_in_its_areas_only(role: str) -> None:
    statements = statements_of(role)

    allowed = {
        action: {area for area in Area if is_allowed(statements, action, object_of(area))}
        for action in ACTIONS
    }

    assert allowed == {action: OBJECTS[role].get(action, set()) for action in ACTIONS}


def test_the_table_names_every_role() -> None:
    assert set(OBJECTS) == {*FUNCTIONS, *WORKER_QUEUES}


def test_the_cleaner_alone_deletes_what_was_set_aside_and_the_sweeper_lists_of_rejects() -> None:
    rejects = rejects_key(table="orders", batch_id="b1", attempt=2)
    evidence = [quarantine_key(f"{area}/{rejects}", sha256="0cc1" * 16) for area in Area]

    def deleters(key: str) -> set[str]:
        resource = f"arn:aws:s3:::esclusa-shop/{key}"
        return {role for role in OBJECTS if is_allowed(statements_of(role), "s3:DeleteObject", resource)}

    assert deleters(rejects) == {"cleaner", "sweeper"}
    assert [deleters(key) for key in evidence] == [{"cleaner"}] * len(evidence)


@pytest.mark.parametrize("role", OBJECTS)
def test_a_role_touches_no_bucket_of_others(role: str) -> None:
    statements = statements_of(role)
    elsewhere = OWN_REQUEST | {"s3:ResourceAccount": "999999999999"}

    for area in Area:
        for action in ACTIONS:
            assert not is_allowed(statements, action, object_of(area, "another-bucket"))
            assert not is_allowed(statements, action, object_of(area), elsewhere)


@pytest.mark.parametrize("role", sorted(set(OBJECTS) - {WATCHER}))
def test_a_role_that_looks_for_an_object_hears_that_there_is_none(role: str) -> None:
    # S3 answers 403 in place of 404 unless the role may list the bucket, in a request that has no prefix.
    assert is_allowed(statements_of(role), "s3:ListBucket", "arn:aws:s3:::esclusa-shop")


@pytest.mark.parametrize("role", OBJECTS)
def test_a_role_takes_messages_from_its_own_queue_only(role: str) -> None:
    own = {**{name: (queue,) for name, queue in FUNCTION_QUEUES.items()}, **WORKER_QUEUES}.get(role, ())
    statements = statements_of(role)

    for action in ("sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:ChangeMessageVisibility"):
        readable = {
            queue
            for queue in QueueName
            if is_allowed(statements, action, queue_arn(queue_name("esclusa", queue)))
        }
        assert readable == set(own)


@pytest.mark.parametrize("role", sorted(set(OBJECTS) - {WATCHER}))
def test_a_role_can_empty_the_outbox_but_not_write_dead_letters(role: str) -> None:
    statements = statements_of(role)

    for queue in QueueName:
        assert is_allowed(statements, "sqs:SendMessage", queue_arn(queue_name("esclusa", queue)))
        dead_letters = queue_arn(dead_letter_queue_name("esclusa", queue))
        assert not is_allowed(statements, "sqs:SendMessage", dead_letters)


# ---- the watcher -------------------------------------------------------------------------------------------------

TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:on-call"


def watcher_of(**channel: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The statements and the environment of a watcher that tells its alarms to a channel."""
    resources = shared_template(replace(AWS, **channel), ORIGINS)["Resources"]
    (policy,) = resources[logical_id(WATCHER, "role")]["Properties"]["Policies"]
    function = resources[logical_id(WATCHER, "function")]["Properties"]
    return policy["PolicyDocument"]["Statement"], function["Environment"]["Variables"]


def test_the_watcher_counts_the_messages_of_every_queue_and_touches_none() -> None:
    statements = statements_of(WATCHER)

    for name in (
        *(queue_name("esclusa", q) for q in QueueName),
        dead_letter_queue_name("esclusa", QueueName.CLEAN),
    ):
        assert is_allowed(statements, "sqs:GetQueueAttributes", queue_arn(name))
        assert is_allowed(statements, "sqs:GetQueueUrl", queue_arn(name))
        for action in ("sqs:SendMessage", "sqs:ReceiveMessage", "sqs:DeleteMessage", "sqs:PurgeQueue"):
            assert not is_allowed(statements, action, queue_arn(name))
    assert not is_allowed(statements, "sqs:GetQueueAttributes", queue_arn("others-clean"))


def test_the_watcher_tells_its_own_topic_only() -> None:
    statements, environment = watcher_of(alarm_topic_arn=TOPIC)

    assert is_allowed(statements, "sns:Publish", TOPIC)
    assert not is_allowed(statements, "sns:Publish", f"{TOPIC}-of-others")
    assert not is_allowed(statements, "sns:Subscribe", TOPIC)
    assert not is_allowed(statements_of(WATCHER), "sns:Publish", TOPIC)
    assert environment["ESCLUSA_ALARM_TOPIC_ARN"] == TOPIC


def test_the_watcher_reads_the_secrets_of_its_webhook_and_its_environment_holds_references() -> None:
    url, key = "secretsmanager:esclusa/alarms#url", "ssm:/esclusa/alarm-key"

    statements, environment = watcher_of(alarm_webhook_url=url, alarm_webhook_key=key)

    parameter = f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/esclusa/alarm-key"
    assert is_allowed(statements, "secretsmanager:GetSecretValue", secret_arn("esclusa/alarms"))
    assert is_allowed(statements, "ssm:GetParameter", parameter)
    assert not is_allowed(statements_of(WATCHER), "ssm:GetParameter", parameter)
    assert (environment["ESCLUSA_ALARM_WEBHOOK_URL"], environment["ESCLUSA_ALARM_WEBHOOK_KEY"]) == (url, key)


def test_only_the_watcher_is_told_of_the_channel() -> None:
    template = shared_template(replace(AWS, alarm_topic_arn=TOPIC), ORIGINS)

    knowing = {
        properties["FunctionName"]
        for _, properties in of_type(template, "AWS::Lambda::Function")
        if "ESCLUSA_ALARM_TOPIC_ARN" in properties["Environment"]["Variables"]
    }

    assert knowing == {function_name("esclusa", WATCHER)}


@pytest.mark.parametrize("topic", [None, TOPIC])
def test_a_watcher_that_is_not_called_or_fails_is_told_from_outside(topic: str | None) -> None:
    template = shared_template(replace(AWS, alarm_topic_arn=topic), ORIGINS)

    alarms = {
        properties["MetricName"]: properties for _, properties in of_type(template, "AWS::CloudWatch::Alarm")
    }

    assert set(alarms) == {"Invocations", "Errors"}
    assert alarms["Invocations"]["TreatMissingData"] == "breaching"
    for alarm in alarms.values():
        assert alarm["Dimensions"] == [
            {"Name": "FunctionName", "Value": {"Ref": logical_id(WATCHER, "function")}}
        ]
        assert alarm["AlarmActions"] == ([topic] if topic else [])


@pytest.mark.parametrize("role", OBJECTS)
def test_a_role_reads_its_own_secrets_only(role: str) -> None:
    statements = statements_of(role)
    secrets = {"esclusa/ledger", "esclusa/shop", "esclusa/mask", "esclusa/ledger-of-others", "esclusa"}
    parameters = {"esclusa/crm", "esclusa/warehouse", "esclusa/other"}

    readable = {
        name for name in secrets if is_allowed(statements, "secretsmanager:GetSecretValue", secret_arn(name))
    } | {
        name
        for name in parameters
        if is_allowed(statements, "ssm:GetParameter", f"arn:aws:ssm:{REGION}:{ACCOUNT}:parameter/{name}")
    }

    more = {
        "extractor": {"esclusa/shop", "esclusa/mask", "esclusa/crm"},
        "publisher": {"esclusa/warehouse"},
    }
    assert readable == {"esclusa/ledger"} | more.get(role, set())


@pytest.mark.parametrize("role", OBJECTS)
def test_only_the_publisher_writes_to_the_catalog_and_to_our_databases(role: str) -> None:
    arn = f"arn:aws:glue:{REGION}:{ACCOUNT}:table/%s/orders"

    allowed = [
        is_allowed(statements_of(role), "glue:UpdateTable", arn % database)
        for database in ("esclusa_shop", "finance")
    ]

    assert allowed == [role == "publisher", False]


def test_the_publisher_may_do_in_the_catalog_what_its_code_calls_and_no_more() -> None:
    source = (ROOT / "services" / "publisher" / "glue.py").read_text()
    called = set(re.findall(r"self\._client\.([a-z_]+)\(", source)) - {"exceptions"}

    (statement,) = (item for item in statements_of("publisher") if item["Sid"] == "RegisterTables")

    camel = {f"glue:{''.join(word.capitalize() for word in name.split('_'))}" for name in called}
    assert set(statement["Action"]) == camel


@pytest.mark.parametrize("role", OBJECTS)
def test_no_role_is_allowed_whole_services(role: str) -> None:
    for statement in statements_of(role):
        if statement["Effect"] == "Deny":
            continue
        assert not [action for action in statement["Action"] if "*" in action]
        assert "*" not in statement["Resource"]


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_function_has_a_role_of_its_own_that_only_lambda_may_take(function: str) -> None:
    role = SHARED["Resources"][logical_id(function, "role")]["Properties"]
    deployed = SHARED["Resources"][logical_id(function, "function")]["Properties"]

    (statement,) = role["AssumeRolePolicyDocument"]["Statement"]
    assert statement["Principal"] == {"Service": "lambda.amazonaws.com"}
    assert deployed["Role"] == {"Fn::GetAtt": [logical_id(function, "role"), "Arn"]}


# ---- what CloudFormation takes -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    [SHARED, SOURCE, bucket_template(bucket="esclusa-shop")],
    ids=["shared", "source", "bucket"],
)
def test_cfn_lint_finds_nothing(template: Template) -> None:
    matches = lint(json.dumps(template), config=ManualArgs(regions=[REGION]))

    assert [str(match) for match in matches] == []


def test_templates_of_many_sources_are_within_the_limits_of_cloudformation_and_iam() -> None:
    origins = [
        Origin(
            f"source_{number}",
            SourceKind.POSTGRES,
            {"dsn": f"secretsmanager:esclusa/source-{number}#dsn"},
            {"k1": "secretsmanager:esclusa/mask#k1"},
        )
        for number in range(40)
    ]

    template = shared_template(AWS, origins)

    # Sources: AWS CloudFormation User Guide, "Quotas" (bytes of a template body, resources);
    # IAM User Guide, "IAM and AWS STS quotas" (characters of a managed policy, white space not counted).
    assert len(json.dumps(template, separators=(",", ":"))) <= 51_200
    assert len(template["Resources"]) <= 500
    policy = json.dumps(template["Resources"]["ExtractorPolicy"]["Properties"]["PolicyDocument"])
    filled_in = re.sub(r'\{"(Fn::Sub|Ref)": ("[^"]*")\}', lambda found: _filled_in(*found.groups()), policy)
    assert len(re.sub(r"\s", "", filled_in)) <= 6_144


def test_equal_plans_give_equal_templates() -> None:
    assert json.dumps(shared_template(AWS, ORIGINS)) == json.dumps(SHARED)


def _filled_in(function: str, argument: str) -> str:
    return json.dumps(resolved({function: json.loads(argument)}))
