"""The Lambdas in CloudFormation: role, log, function, and what calls it."""

from typing import Any

from infra.names import function_name, logical_id
from infra.plan import FUNCTION_QUEUES, SCHEDULES, SWEEPER, WATCHER, InlineCode, Plan
from infra.policies import function_statements
from infra.queues import FAILED_CALLS, alarm
from infra.roles import OUTBOX_POLICY, role, taken_by_service
from shared.ports import QueueName

Template = dict[str, Any]

#: So long the watcher may be silent, or fail, until an alarm outside of the fleet says so.
_WATCHER_SILENCE_MINUTES = 5


def function_resources(plan: Plan, *, key: Any) -> Template:
    """Return every Lambda with what calls it."""
    resources: Template = {}
    for function, queue in FUNCTION_QUEUES.items():
        resources |= _function(plan, function, key=key)
        resources[logical_id(function, "mapping")] = _mapping(plan, function, queue)
    for function in SCHEDULES:
        resources |= _function(plan, function, key=key)
        resources |= _schedule(plan, function)
    return resources | _watch_over_the_watcher(plan)


def _function(plan: Plan, function: str, *, key: Any) -> Template:
    name = function_name(plan.prefix, function)
    return {
        logical_id(function, "role"): role(
            name,
            function_statements(plan, function, key=key),
            trust=taken_by_service("lambda.amazonaws.com"),
            managed=[] if function == WATCHER else [OUTBOX_POLICY],
        ),
        logical_id(function, "logs"): {
            "Type": "AWS::Logs::LogGroup",
            "Properties": {
                "LogGroupName": f"/aws/lambda/{name}",
                "RetentionInDays": plan.log_retention_days,
            },
        },
        logical_id(function, "function"): {
            "Type": "AWS::Lambda::Function",
            "DependsOn": logical_id(function, "logs"),
            "Properties": {
                "FunctionName": name,
                "Runtime": "python3.12",
                "Role": {"Fn::GetAtt": [logical_id(function, "role"), "Arn"]},
                "Timeout": plan.function_timeout_seconds,
                "MemorySize": plan.function_memory_mb,
                "Environment": {"Variables": _environment(plan, function)},
                **_concurrency(plan, function),
                **_network(plan),
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


def _concurrency(plan: Plan, function: str) -> Template:
    """
    Return the concurrency that a Lambda has to itself, no less than its queue asks for.

    Less would throttle the calls of its queue, and what is throttled too often goes to the dead letters.
    Source: AWS Lambda Developer Guide, "Configuring scaling behavior for SQS event source mappings".
    """
    if not plan.is_concurrency_reserved:
        return {}
    # A schedule calls one after the other; a second is there for the call after one that hangs.
    return {"ReservedConcurrentExecutions": plan.max_concurrency if function in FUNCTION_QUEUES else 2}


def _network(plan: Plan) -> Template:
    if plan.network is None:
        return {}
    return {
        "VpcConfig": {
            "SubnetIds": list(plan.network.subnet_ids),
            "SecurityGroupIds": list(plan.network.security_group_ids),
        }
    }


def _environment(plan: Plan, function: str) -> Template:
    urls = ", ".join(f'"{queue}": "${{{logical_id(queue, "queue")}}}"' for queue in QueueName)
    return {
        "ESCLUSA_DEPLOYMENT": plan.deployment,
        "ESCLUSA_REGION": {"Ref": "AWS::Region"},
        "ESCLUSA_LEDGER_DSN": plan.ledger_dsn,
        **({"ESCLUSA_CA_CERTIFICATES": plan.ca_certificates} if plan.ca_certificates else {}),
        "ESCLUSA_BUCKET_PREFIX": plan.prefix,
        "ESCLUSA_QUEUE_URLS": {"Fn::Sub": "{" + urls + "}"},
        **dict(plan.environment),
        **(_quarantine(plan) if function == SWEEPER else {}),
        **(_channel(plan) if function == WATCHER else {}),
    }


def _quarantine(plan: Plan) -> Template:
    """Tell the sweeper what the rule of the buckets does: two settings of one thing would drift apart."""
    return {"ESCLUSA_SWEEP_QUARANTINE_KEPT_SECONDS": str(plan.quarantine_retention_days * 24 * 3600)}


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


def _schedule(plan: Plan, name_of_function: str) -> Template:
    """
    Return the rules that call a Lambda, and what becomes of calls that fail: they are kept, and not repeated.

    The next call comes within a minute and does the same.
    """
    function = logical_id(name_of_function, "function")
    failed = {"Fn::GetAtt": [FAILED_CALLS, "Arn"]}
    resources: Template = {
        logical_id(name_of_function, "calls"): {
            "Type": "AWS::Lambda::EventInvokeConfig",
            "Properties": {
                "FunctionName": {"Ref": function},
                "Qualifier": "$LATEST",
                "MaximumRetryAttempts": 0,
                "MaximumEventAgeInSeconds": 60,
                "DestinationConfig": {"OnFailure": {"Destination": failed}},
            },
        }
    }
    for name, (rate, event) in SCHEDULES[name_of_function].items():
        rule = logical_id(name_of_function, name, "rule")
        resources[rule] = {
            "Type": "AWS::Events::Rule",
            "Properties": {
                "Name": f"{function_name(plan.prefix, name_of_function)}-{name}",
                "ScheduleExpression": rate,
                "Targets": [
                    {
                        "Id": name,
                        "Arn": {"Fn::GetAtt": [function, "Arn"]},
                        "Input": event,
                        "DeadLetterConfig": {"Arn": failed},
                    }
                ],
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
        "silent": ("Invocations", True, "breaching", "was not called"),
        "failing": ("Errors", False, "notBreaching", "failed each time"),
    }
    return {
        logical_id(WATCHER, name, "alarm"): alarm(
            plan,
            f"{function_name(plan.prefix, WATCHER)}-{name}",
            namespace="AWS/Lambda",
            metric=metric,
            dimensions={"FunctionName": {"Ref": logical_id(WATCHER, "function")}},
            statistic="Sum",
            period_seconds=60,
            periods=_WATCHER_SILENCE_MINUTES,
            threshold=1,
            is_below=is_below,
            missing=missing,
            description=f"The watcher {what} for {_WATCHER_SILENCE_MINUTES} minutes: no alarm of Esclusa can be "
            "trusted. See its log, and whether the ledger answers.",
        )
        for name, (metric, is_below, missing, what) in conditions.items()
    }
