"""
CloudFormation, generated: one template for what all sources share, one for each source.

The same templates go to a local AWS server and to AWS. What differs is in the `Plan`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from infra.names import dead_letter_queue_name, function_name, logical_id, queue_name
from infra.policies import function_statements, watcher_statements, worker_statements
from shared.domain.contracts import Origin
from shared.domain.files import Area
from shared.lifecycle import GATE_QUEUES
from shared.ports import QueueName

Template = dict[str, Any]

#: The Lambdas that a queue calls, and that queue.
FUNCTION_QUEUES: Mapping[str, QueueName] = {
    **{str(queue): queue for queue in GATE_QUEUES.values()},
    "cleaner": QueueName.CLEAN,
}

#: The queues of each worker service. A worker takes from one of them; which one, its settings say.
WORKER_QUEUES: Mapping[str, tuple[QueueName, ...]] = {
    "extractor": (QueueName.EXTRACT, QueueName.BACKFILL),
    "processor": (QueueName.PROCESS,),
    "publisher": (QueueName.PUBLISH,),
}

SWEEPER = "sweeper"
WATCHER = "watcher"

#: The Lambdas that a schedule calls: what each call is, by its name.
SCHEDULES: Mapping[str, Mapping[str, tuple[str, str]]] = {
    SWEEPER: {"often": ("rate(1 minute)", "{}"), "deep": ("rate(1 hour)", '{"deep": true}')},
    WATCHER: {"often": ("rate(1 minute)", "{}")},
}

#: So long the watcher may be silent, or fail, until an alarm outside of the fleet says so.
_WATCHER_SILENCE_MINUTES = 5

_DEAD_LETTERS_KEPT_SECONDS = 14 * 24 * 3600  # the most that SQS keeps


@dataclass(frozen=True, slots=True)
class InlineCode:
    """The Lambdas find the packages on their path: a line that imports the handler is their whole code."""


@dataclass(frozen=True, slots=True)
class PackagedCode:
    """The Lambdas' code is a zip in a bucket."""

    bucket: str
    key: str


@dataclass(frozen=True, slots=True)
class Plan:
    """What a deployment decides."""

    #: Begins the name of everything.
    prefix: str
    #: Reference to the control database's DSN.
    ledger_dsn: str
    #: Reference to the warehouse's DSN, which only the publisher may read.
    warehouse_dsn: str
    code: InlineCode | PackagedCode
    #: `local` or `aws`, see `shared.settings.Deployment`.
    deployment: str = "aws"
    worker_visibility_timeout_seconds: int = 120
    function_timeout_seconds: int = 60
    function_memory_mb: int = 512
    #: More than a stage has attempts: it is the ledger that gives a batch up, not its message.
    max_receive_count: int = 15
    max_concurrency: int = 10
    #: What still lies in `tmp/` after so long, of whatever origin, goes.
    transient_retention_days: int = 7
    quarantine_retention_days: int = 90
    #: Where the watcher's notices go: one of the two, or nowhere but into the log.
    alarm_topic_arn: str | None = None
    #: References to the URL and to the key that signs.
    alarm_webhook_url: str | None = None
    alarm_webhook_key: str | None = None
    #: More settings of the Lambdas, by environment variable.
    environment: tuple[tuple[str, str], ...] = ()


# ---- what all sources share -----------------------------------------------------------------------------------


def shared_template(plan: Plan, origins: Sequence[Origin]) -> Template:
    """Return the template of queues, Lambdas and roles."""
    resources: Template = {}
    for queue in QueueName:
        resources |= _queue(plan, queue)
    resources["QueuePolicy"] = _queue_policy(plan)
    for function, queue in FUNCTION_QUEUES.items():
        resources |= _function(plan, function)
        resources[logical_id(function, "mapping")] = _mapping(plan, function, queue)
    for function in SCHEDULES:
        resources |= _function(plan, function)
        resources |= _schedule(function)
    resources |= _watch_over_the_watcher(plan)
    for worker in WORKER_QUEUES:
        resources[logical_id(worker, "policy")] = _worker_policy(plan, worker, origins)
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Esclusa: queues, gates, cleaner, sweeper, watcher and roles that all sources share.",
        "Resources": resources,
        "Outputs": {
            logical_id(queue, "queue", "url"): {"Value": {"Ref": logical_id(queue, "queue")}}
            for queue in QueueName
        },
    }


def _queue(plan: Plan, queue: QueueName) -> Template:
    dead_letters = logical_id(queue, "dead", "letters")
    return {
        dead_letters: {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "QueueName": dead_letter_queue_name(plan.prefix, queue),
                "MessageRetentionPeriod": _DEAD_LETTERS_KEPT_SECONDS,
                "SqsManagedSseEnabled": True,
            },
        },
        logical_id(queue, "queue"): {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "QueueName": queue_name(plan.prefix, queue),
                "VisibilityTimeout": _visibility_timeout_seconds(plan, queue),
                "MessageRetentionPeriod": 4 * 24 * 3600,
                "SqsManagedSseEnabled": True,
                "RedrivePolicy": {
                    "deadLetterTargetArn": {"Fn::GetAtt": [dead_letters, "Arn"]},
                    "maxReceiveCount": plan.max_receive_count,
                },
            },
        },
    }


def _visibility_timeout_seconds(plan: Plan, queue: QueueName) -> int:
    if any(queue in queues for queues in WORKER_QUEUES.values()):
        return plan.worker_visibility_timeout_seconds
    # Source: AWS Lambda Developer Guide, "Configuring a queue to use with Lambda": six times the timeout.
    return 6 * plan.function_timeout_seconds


def _queue_policy(plan: Plan) -> Template:
    return {
        "Type": "AWS::SQS::QueuePolicy",
        "Properties": {
            "Queues": [{"Ref": logical_id(queue, "queue")} for queue in GATE_QUEUES.values()],
            "PolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Sid": "EventsOfOurBuckets",
                        "Effect": "Allow",
                        "Principal": {"Service": "s3.amazonaws.com"},
                        "Action": "sqs:SendMessage",
                        "Resource": [
                            {"Fn::GetAtt": [logical_id(queue, "queue"), "Arn"]}
                            for queue in GATE_QUEUES.values()
                        ],
                        "Condition": {
                            "ArnLike": {
                                "aws:SourceArn": {"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{plan.prefix}-*"}
                            },
                            "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
                        },
                    }
                ],
            },
        },
    }


def _function(plan: Plan, function: str) -> Template:
    role = logical_id(function, "role")
    return {
        role: {
            "Type": "AWS::IAM::Role",
            "Properties": {
                "RoleName": function_name(plan.prefix, function),
                "AssumeRolePolicyDocument": _assumed_by("lambda.amazonaws.com"),
                "Policies": [
                    {
                        "PolicyName": "work",
                        "PolicyDocument": {
                            "Version": "2012-10-17",
                            "Statement": _statements(plan, function),
                        },
                    }
                ],
            },
        },
        logical_id(function, "logs"): {
            "Type": "AWS::Logs::LogGroup",
            "Properties": {
                "LogGroupName": f"/aws/lambda/{function_name(plan.prefix, function)}",
                "RetentionInDays": 30,
            },
        },
        logical_id(function, "function"): {
            "Type": "AWS::Lambda::Function",
            "DependsOn": logical_id(function, "logs"),
            "Properties": {
                "FunctionName": function_name(plan.prefix, function),
                "Runtime": "python3.12",
                "Role": {"Fn::GetAtt": [role, "Arn"]},
                "Timeout": plan.function_timeout_seconds,
                "MemorySize": plan.function_memory_mb,
                "Environment": {"Variables": _function_environment(plan, function)},
                **_code(plan, function),
            },
        },
    }


def _code(plan: Plan, function: str) -> Template:
    module = f"lambdas.{function.replace('-', '_')}.handler"
    if isinstance(plan.code, InlineCode):
        return {"Handler": "index.handle", "Code": {"ZipFile": f"from {module} import handle\n"}}
    return {
        "Handler": f"{module}.handle",
        "Code": {"S3Bucket": plan.code.bucket, "S3Key": plan.code.key},
    }


def _statements(plan: Plan, function: str) -> list[Template]:
    if function == WATCHER:
        webhook = [reference for reference in (plan.alarm_webhook_url, plan.alarm_webhook_key) if reference]
        return watcher_statements(
            plan.prefix, function, [plan.ledger_dsn, *webhook], topic_arn=plan.alarm_topic_arn
        )
    return function_statements(plan.prefix, function, plan.ledger_dsn)


def _function_environment(plan: Plan, function: str) -> Template:
    urls = ", ".join(f'"{queue}": "${{{logical_id(queue, "queue")}}}"' for queue in QueueName)
    return {
        "ESCLUSA_DEPLOYMENT": plan.deployment,
        "ESCLUSA_REGION": {"Ref": "AWS::Region"},
        "ESCLUSA_LEDGER_DSN": plan.ledger_dsn,
        "ESCLUSA_BUCKET_PREFIX": plan.prefix,
        "ESCLUSA_QUEUE_URLS": {"Fn::Sub": "{" + urls + "}"},
        **dict(plan.environment),
        **(_channel(plan) if function == WATCHER else {}),
    }


def _channel(plan: Plan) -> Template:
    settings = {
        "ESCLUSA_ALARM_TOPIC_ARN": plan.alarm_topic_arn,
        "ESCLUSA_ALARM_WEBHOOK_URL": plan.alarm_webhook_url,
        "ESCLUSA_ALARM_WEBHOOK_KEY": plan.alarm_webhook_key,
    }
    return {name: value for name, value in settings.items() if value}


def _mapping(plan: Plan, function: str, queue: QueueName) -> Template:
    return {
        "Type": "AWS::Lambda::EventSourceMapping",
        "Properties": {
            "EventSourceArn": {"Fn::GetAtt": [logical_id(queue, "queue"), "Arn"]},
            "FunctionName": {"Ref": logical_id(function, "function")},
            "BatchSize": 10,
            "FunctionResponseTypes": ["ReportBatchItemFailures"],
            "ScalingConfig": {"MaximumConcurrency": plan.max_concurrency},
        },
    }


def _schedule(name_of_function: str) -> Template:
    function = logical_id(name_of_function, "function")
    resources: Template = {}
    for name, (rate, event) in SCHEDULES[name_of_function].items():
        rule = logical_id(name_of_function, name, "rule")
        resources[rule] = {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "ScheduleExpression": rate,
                "Targets": [{"Id": name, "Arn": {"Fn::GetAtt": [function, "Arn"]}, "Input": event}],
            },
        }
        resources[logical_id(name_of_function, name, "permission")] = {
            "Type": "AWS::Lambda::Permission",
            "Properties": {
                "Action": "lambda:InvokeFunction",
                "FunctionName": {"Ref": function},
                "Principal": "events.amazonaws.com",
                "SourceArn": {"Fn::GetAtt": [rule, "Arn"]},
            },
        }
    return resources


def _watch_over_the_watcher(plan: Plan) -> Template:
    """
    Alarms of CloudWatch, which run outside of the fleet: who watches is watched by somebody else.

    A function that is not called has no data points, so that missing ones have to count as an alarm.
    Source: Amazon CloudWatch User Guide, "Configuring how CloudWatch alarms treat missing data".
    """
    conditions = {
        "silent": ("Invocations", "LessThanThreshold", "breaching", "was not called"),
        "failing": ("Errors", "GreaterThanOrEqualToThreshold", "notBreaching", "failed each time"),
    }
    return {
        logical_id(WATCHER, name, "alarm"): {
            "Type": "AWS::CloudWatch::Alarm",
            "Properties": {
                "AlarmName": f"{function_name(plan.prefix, WATCHER)}-{name}",
                "AlarmDescription": f"The watcher {what} for {_WATCHER_SILENCE_MINUTES} minutes: no alarm of "
                "Esclusa can be trusted. See its log, and whether the ledger answers.",
                "Namespace": "AWS/Lambda",
                "MetricName": metric,
                "Dimensions": [{"Name": "FunctionName", "Value": {"Ref": logical_id(WATCHER, "function")}}],
                "Statistic": "Sum",
                "Period": 60,
                "EvaluationPeriods": _WATCHER_SILENCE_MINUTES,
                "Threshold": 1,
                "ComparisonOperator": comparison,
                "TreatMissingData": missing,
                "AlarmActions": [plan.alarm_topic_arn] if plan.alarm_topic_arn else [],
            },
        }
        for name, (metric, comparison, missing, what) in conditions.items()
    }


def _worker_policy(plan: Plan, worker: str, origins: Sequence[Origin]) -> Template:
    """A managed policy, for the instance role, the task role or the service account that runs the worker."""
    return {
        "Type": "AWS::IAM::ManagedPolicy",
        "Properties": {
            "ManagedPolicyName": f"{plan.prefix}-{worker}",
            "PolicyDocument": {
                "Version": "2012-10-17",
                "Statement": worker_statements(
                    plan.prefix,
                    worker,
                    WORKER_QUEUES[worker],
                    ledger_dsn=plan.ledger_dsn,
                    warehouse_dsn=plan.warehouse_dsn,
                    origins=origins,
                ),
            },
        },
    }


def _assumed_by(service: str) -> Template:
    return {
        "Version": "2012-10-17",
        "Statement": [{"Effect": "Allow", "Principal": {"Service": service}, "Action": "sts:AssumeRole"}],
    }


# ---- one source ------------------------------------------------------------------------------------------------


def source_template(plan: Plan, *, source: str, bucket: str, database: str) -> Template:
    """Return the template of a source: its bucket with the doors to the gates, and its Glue database."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Esclusa: bucket and catalog of the source {source}.",
        "Resources": {
            "Bucket": _bucket(plan, bucket),
            "BucketPolicy": _bucket_policy(),
            "Database": {
                "Type": "AWS::Glue::Database",
                "Properties": {
                    "CatalogId": {"Ref": "AWS::AccountId"},
                    "DatabaseInput": {"Name": database, "Description": f"External tables of {source}."},
                },
            },
        },
    }


def bucket_template(*, bucket: str) -> Template:
    """
    Return a template of the bucket alone and bare: with it a stack takes in a bucket that is there already.

    CloudFormation applies nothing to what it imports, and later only what differs from the template of the
    import. So whatever this named would never come to the bucket: its doors to the gates, its encryption.
    """
    bare = {**_RETAINED_BUCKET, "Properties": {"BucketName": bucket}}
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Bucket": bare}}


#: The files of a source outlive its stack.
_RETAINED_BUCKET: Template = {
    "Type": "AWS::S3::Bucket",
    "DeletionPolicy": "Retain",
    "UpdateReplacePolicy": "Retain",
}


def _bucket(plan: Plan, bucket: str) -> Template:
    return {
        **_RETAINED_BUCKET,
        "Properties": {
            "BucketName": bucket,
            "PublicAccessBlockConfiguration": {
                "BlockPublicAcls": True,
                "BlockPublicPolicy": True,
                "IgnorePublicAcls": True,
                "RestrictPublicBuckets": True,
            },
            "BucketEncryption": {
                "ServerSideEncryptionConfiguration": [
                    {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
                ]
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            "LifecycleConfiguration": {"Rules": _lifecycle_rules(plan)},
            "NotificationConfiguration": {"QueueConfigurations": [_door(plan, area) for area in GATE_QUEUES]},
        },
    }


def _door(plan: Plan, area: Area) -> Template:
    queue = queue_name(plan.prefix, GATE_QUEUES[area])
    return {
        "Event": "s3:ObjectCreated:*",
        "Queue": {"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{queue}"},
        "Filter": {"S3Key": {"Rules": [{"Name": "prefix", "Value": f"{area}/"}]}},
    }


def _lifecycle_rules(plan: Plan) -> list[Template]:
    days = {
        Area.TMP: plan.transient_retention_days,
        Area.QUARANTINE: plan.quarantine_retention_days,
    }
    rules: list[Template] = [
        {"Id": f"expire-{area}", "Status": "Enabled", "Prefix": f"{area}/", "ExpirationInDays": count}
        for area, count in days.items()
    ]
    uploads = {"DaysAfterInitiation": 1}
    rules.append({"Id": "abort-uploads", "Status": "Enabled", "AbortIncompleteMultipartUpload": uploads})
    return rules


def _bucket_policy() -> Template:
    return {
        "Type": "AWS::S3::BucketPolicy",
        "Properties": {
            "Bucket": {"Ref": "Bucket"},
            "PolicyDocument": {
                "Version": "2012-10-17",
                "Statement": [
                    {
                        "Sid": "TlsOnly",
                        "Effect": "Deny",
                        "Principal": "*",
                        "Action": "s3:*",
                        "Resource": [
                            {"Fn::GetAtt": ["Bucket", "Arn"]},
                            {"Fn::Sub": "${Bucket.Arn}/*"},
                        ],
                        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
                    }
                ],
            },
        },
    }
