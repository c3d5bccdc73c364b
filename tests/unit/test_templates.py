"""The templates name what the code names, leave no door open, and give each role its lines and no others."""

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from support.iam import ACCOUNT, REGION, is_allowed
from support.iam import statements_of as statements_in

from infra.deploy import body_of, require_within_limits
from infra.names import (
    dead_letter_queue_name,
    failed_calls_queue_name,
    function_name,
    logical_id,
    queue_name,
    stack_name,
)
from infra.plan import (
    FUNCTION_QUEUES,
    SCHEDULES,
    WATCHER,
    WORKER_QUEUES,
    InlineCode,
    Network,
    PackagedCode,
    Plan,
)
from infra.roles import policy_characters
from infra.templates import Template, bucket_template, shared_template, source_template
from shared.celery_sqs import WorkerSettings
from shared.domain.contracts import Origin, SourceKind
from shared.domain.files import NEXT_AREA, Area
from shared.errors import ConfigurationError
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
    Origin("web_crm", SourceKind.REST, {"base_url": "env:CRM_URL", "token": "ssm:/esclusa/crm"}),
]

SHARED = shared_template(AWS, ORIGINS)
SOURCE = source_template(AWS, source="web_crm", bucket="esclusa-web-crm", database="esclusa_web_crm")


def of_type(template: Template, kind: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for name, resource in template["Resources"].items():
        if resource["Type"] == kind:
            yield name, resource["Properties"]


def statements_of(role: str) -> list[dict[str, Any]]:
    """The statements of a role, with those of its managed policies."""
    return statements_in(SHARED, role)


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
    dead = {dead_letter_queue_name("esclusa", queue) for queue in QueueName}
    assert names == expected | dead | {failed_calls_queue_name("esclusa")}


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
    properties = SHARED["Resources"]["QueuePolicy"]["Properties"]
    (statement, _) = properties["PolicyDocument"]["Statement"]
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


def test_every_queue_has_one_policy_and_is_reached_by_tls_only() -> None:
    policies = [properties for _, properties in of_type(SHARED, "AWS::SQS::QueuePolicy")]
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}

    covered = [queue["Ref"] for properties in policies for queue in properties["Queues"]]

    assert sorted(covered) == sorted(name for name, _ in of_type(SHARED, "AWS::SQS::Queue"))
    for properties in policies:
        statements = [everything, properties["PolicyDocument"]["Statement"][-1]]
        for transport, expected in (("true", True), ("false", False)):
            context = {"aws:SecureTransport": transport}
            assert is_allowed(statements, "sqs:SendMessage", queue_arn("any"), context) is expected


@pytest.mark.parametrize("queue", QueueName)
def test_dead_letters_are_taken_from_their_own_queue_only(queue: QueueName) -> None:
    properties = SHARED["Resources"][logical_id(queue, "dead", "letters")]["Properties"]

    (source,) = properties["RedriveAllowPolicy"]["sourceQueueArns"]
    assert properties["RedriveAllowPolicy"]["redrivePermission"] == "byQueue"
    assert source["Fn::Sub"].endswith(f":{queue_name('esclusa', queue)}")


def test_every_queue_is_encrypted_and_has_an_alarm_of_age_and_one_of_its_dead_letters() -> None:
    assert all(properties["SqsManagedSseEnabled"] for _, properties in of_type(SHARED, "AWS::SQS::Queue"))
    watched = {
        (properties["MetricName"], properties["Dimensions"][0]["Value"]["Fn::GetAtt"][0])
        for _, properties in of_type(SHARED, "AWS::CloudWatch::Alarm")
        if properties["Namespace"] == "AWS/SQS"
    }

    assert watched == {
        *(("ApproximateAgeOfOldestMessage", logical_id(queue, "queue")) for queue in QueueName),
        *(
            ("ApproximateNumberOfMessagesVisible", logical_id(queue, "dead", "letters"))
            for queue in QueueName
        ),
        ("ApproximateNumberOfMessagesVisible", "FailedCallsQueue"),
    }


@pytest.mark.parametrize("function", SCHEDULES)
def test_a_call_of_a_schedule_that_fails_is_kept_and_the_next_one_does_its_work(function: str) -> None:
    resources = SHARED["Resources"]
    failed = {"Fn::GetAtt": ["FailedCallsQueue", "Arn"]}

    calls = resources[logical_id(function, "calls")]["Properties"]
    rules = [resources[logical_id(function, name, "rule")]["Properties"] for name in SCHEDULES[function]]

    assert calls["MaximumRetryAttempts"] == 0
    assert calls["DestinationConfig"]["OnFailure"]["Destination"] == failed
    assert [target["DeadLetterConfig"]["Arn"] for rule in rules for target in rule["Targets"]] == [
        failed
    ] * len(rules)


def test_a_function_has_no_less_concurrency_to_itself_than_its_queue_asks_for() -> None:
    for function in FUNCTION_QUEUES:
        reserved = SHARED["Resources"][logical_id(function, "function")]["Properties"]
        mapping = SHARED["Resources"][logical_id(function, "mapping")]["Properties"]
        assert reserved["ReservedConcurrentExecutions"] >= mapping["ScalingConfig"]["MaximumConcurrency"]
    shared = shared_template(replace(AWS, is_concurrency_reserved=False), [])
    assert not any("ReservedConcurrentExecutions" in p for _, p in of_type(shared, "AWS::Lambda::Function"))


def test_the_sweeper_keeps_quarantine_as_long_as_the_rule_of_the_buckets() -> None:
    plan = replace(AWS, quarantine_retention_days=12)
    rules = source_template(plan, source="shop", bucket="b", database="d")["Resources"]["Bucket"][
        "Properties"
    ]
    variables = shared_template(plan, [])["Resources"]["SweeperFunction"]["Properties"]["Environment"][
        "Variables"
    ]

    (days,) = (
        rule["ExpirationInDays"]
        for rule in rules["LifecycleConfiguration"]["Rules"]
        if rule["Id"] == "expire-quarantine"
    )

    assert days == 12
    assert variables["ESCLUSA_SWEEP_QUARANTINE_KEPT_SECONDS"] == str(12 * 24 * 3600)


def test_in_a_network_every_function_stands_in_its_subnets_and_may() -> None:
    template = shared_template(replace(AWS, network=Network(("subnet-1",), ("sg-1",))), [])

    for function in FUNCTIONS:
        properties = template["Resources"][logical_id(function, "function")]["Properties"]
        assert properties["VpcConfig"] == {"SubnetIds": ["subnet-1"], "SecurityGroupIds": ["sg-1"]}
        assert is_allowed(statements_in(template, function), "ec2:CreateNetworkInterface", "*")
        assert not is_allowed(statements_of(function), "ec2:CreateNetworkInterface", "*")


# ---- buckets -----------------------------------------------------------------------------------------------------


def test_a_bucket_is_private_encrypted_and_outlives_its_stack() -> None:
    bucket = SOURCE["Resources"]["Bucket"]

    assert set(bucket["Properties"]["PublicAccessBlockConfiguration"].values()) == {True}
    assert bucket["Properties"]["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert (bucket["DeletionPolicy"], bucket["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_buckets_are_encrypted_with_a_key_of_the_fleet_or_with_the_one_that_is_named() -> None:
    named = f"arn:aws:kms:{REGION}:{ACCOUNT}:key/1"

    def key_of(template: Template) -> Any:
        (rule,) = template["Resources"]["Bucket"]["Properties"]["BucketEncryption"][
            "ServerSideEncryptionConfiguration"
        ]
        assert rule["ServerSideEncryptionByDefault"]["SSEAlgorithm"] == "aws:kms"
        return rule["ServerSideEncryptionByDefault"]["KMSMasterKeyID"]

    export = SHARED["Outputs"]["KeyArn"]
    assert key_of(SOURCE) == {"Fn::ImportValue": export["Export"]["Name"]}
    assert export["Value"] == {"Fn::GetAtt": ["Key", "Arn"]}
    assert SHARED["Resources"]["Key"]["DeletionPolicy"] == "Retain"
    plan = replace(AWS, kms_key_arn=named)
    assert key_of(source_template(plan, source="shop", bucket="b", database="d")) == named
    assert "Key" not in shared_template(plan, [])["Resources"]


def test_what_was_deleted_in_final_can_be_had_back_for_a_while_and_elsewhere_it_is_gone_in_a_day() -> None:
    properties = SOURCE["Resources"]["Bucket"]["Properties"]

    kept = {
        rule["Prefix"]: rule["NoncurrentVersionExpiration"]["NoncurrentDays"]
        for rule in properties["LifecycleConfiguration"]["Rules"]
        if "NoncurrentVersionExpiration" in rule
    }

    assert properties["VersioningConfiguration"] == {"Status": "Enabled"}
    assert kept == {f"{area}/": 30 if area is Area.FINAL else 1 for area in Area}


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


# ---- the watcher -------------------------------------------------------------------------------------------------

TOPIC = f"arn:aws:sns:{REGION}:{ACCOUNT}:on-call"


def watcher_of(**channel: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """The statements and the environment of a watcher that tells its alarms to a channel."""
    resources = shared_template(replace(AWS, **channel), ORIGINS)["Resources"]
    (policy,) = resources[logical_id(WATCHER, "role")]["Properties"]["Policies"]
    function = resources[logical_id(WATCHER, "function")]["Properties"]
    return policy["PolicyDocument"]["Statement"], function["Environment"]["Variables"]


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
        properties["MetricName"]: properties
        for _, properties in of_type(template, "AWS::CloudWatch::Alarm")
        if properties["Namespace"] == "AWS/Lambda"
    }

    assert set(alarms) == {"Invocations", "Errors"}
    assert alarms["Invocations"]["TreatMissingData"] == "breaching"
    for alarm in alarms.values():
        assert alarm["Dimensions"] == [
            {"Name": "FunctionName", "Value": {"Ref": logical_id(WATCHER, "function")}}
        ]
        assert alarm["AlarmActions"] == ([topic] if topic else [])


def test_the_publisher_may_do_in_the_catalog_what_its_code_calls_and_no_more() -> None:
    source = (ROOT / "services" / "publisher" / "glue.py").read_text()
    called = set(re.findall(r"self\._client\.([a-z_]+)\(", source)) - {"exceptions"}

    (statement,) = (item for item in statements_of("publisher") if item["Sid"] == "RegisterTables")

    camel = {f"glue:{''.join(word.capitalize() for word in name.split('_'))}" for name in called}
    assert set(statement["Action"]) == camel


# ---- what CloudFormation takes -----------------------------------------------------------------------------------


def many(count: int, folder: str = "") -> list[Origin]:
    """Sources, each with a secret and a mask key of its own."""
    return [
        Origin(
            f"source_{number}",
            SourceKind.POSTGRES,
            {"dsn": f"secretsmanager:esclusa/{folder and 'sources/'}source-{number:04d}#dsn"},
            {"k1": f"secretsmanager:esclusa/{folder and 'masks/'}source-{number:04d}-{folder or 'mask'}#k1"},
        )
        for number in range(count)
    ]


def require_within_quotas(template: Template) -> None:
    """Sources: AWS CloudFormation User Guide, "Quotas"; IAM User Guide, "IAM and AWS STS quotas"."""
    assert len(body_of(template)) <= 1_000_000
    assert len(template["Resources"]) <= 500
    for _, properties in of_type(template, "AWS::IAM::ManagedPolicy"):
        assert policy_characters(properties["PolicyDocument"]) <= 6_144
    for _, properties in of_type(template, "AWS::IAM::Role"):
        assert sum(policy_characters(policy["PolicyDocument"]) for policy in properties["Policies"]) <= 10_240
        assert len(properties["ManagedPolicyArns"]) <= 10
        assert policy_characters(properties["AssumeRolePolicyDocument"]) <= 2_048


def test_500_sources_whose_secrets_lie_in_the_folders_cost_a_line_each_for_connections_and_masks() -> None:
    template = shared_template(AWS, many(500, folder="k"))

    require_within_quotas(template)
    assert len(statements_in(template, "extractor")) == len(
        statements_in(shared_template(AWS, many(1, "k")), "extractor")
    )
    for name in ("esclusa/sources/source-0499", "esclusa/masks/source-0499-k"):
        assert is_allowed(
            statements_in(template, "extractor"), "secretsmanager:GetSecretValue", secret_arn(name)
        )
    assert not is_allowed(
        statements_in(template, "planner"),
        "secretsmanager:GetSecretValue",
        secret_arn("esclusa/masks/source-0499-k"),
    )


def test_secrets_of_500_sources_anywhere_are_spread_over_managed_policies_and_each_is_named() -> None:
    origins = [replace(origin, mask_keys={"k1": "secretsmanager:mask#k1"}) for origin in many(500)]

    template = shared_template(AWS, origins)

    require_within_quotas(template)
    statements = statements_in(template, "extractor")
    named = sum(len(statement["Resource"]) for statement in statements if statement["Sid"] == "ReadSecrets")
    # The ledger, the key of the masks, and one for each source.
    assert named == 502
    for number in (0, 71, 499):
        arn = secret_arn(f"esclusa/source-{number:04d}")
        assert is_allowed(statements, "secretsmanager:GetSecretValue", arn)
        assert is_allowed(statements_in(template, "planner"), "secretsmanager:GetSecretValue", arn)
        assert not is_allowed(statements_in(template, "processor"), "secretsmanager:GetSecretValue", arn)


def test_more_secrets_than_the_policies_of_a_role_can_name_are_refused_with_the_cure() -> None:
    with pytest.raises(ConfigurationError, match=r"role esclusa-extractor: .* found 1\d; .*esclusa/sources/"):
        shared_template(AWS, many(500))


def test_a_policy_is_counted_in_the_longest_words_that_stand_for_its_parameters() -> None:
    statement = {"Resource": [{"Fn::Sub": "arn:${AWS::Partition}:s3:::b"}], "Sid": "a b"}

    assert policy_characters(statement) == len('{"Resource":["arn:aws-us-gov:s3:::b"],"Sid":"ab"}')


def test_a_template_above_the_limits_is_refused_by_name() -> None:
    template = {"Resources": {f"R{number}": {"Type": "AWS::SNS::Topic"} for number in range(501)}}

    with pytest.raises(
        ConfigurationError, match=r"stack esclusa-shared: .* 500 resources, found .* 501 resources"
    ):
        require_within_limits("esclusa-shared", template)


def test_equal_plans_give_equal_templates() -> None:
    assert json.dumps(shared_template(AWS, ORIGINS)) == json.dumps(SHARED)
