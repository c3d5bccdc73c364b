"""The queues of the fleet in CloudFormation: dead letters, who may send, and alarms."""

from typing import Any

from infra.names import dead_letter_queue_name, failed_calls_queue_name, logical_id, queue_name
from infra.plan import WORKER_QUEUES, Plan
from shared.lifecycle import GATE_QUEUES
from shared.ports import QueueName

Template = dict[str, Any]

FAILED_CALLS = "FailedCallsQueue"

_DEAD_LETTERS_KEPT_SECONDS = 14 * 24 * 3600  # the most that SQS keeps
_MESSAGES_KEPT_SECONDS = 4 * 24 * 3600


def queue_resources(plan: Plan) -> Template:
    """Return every queue with its dead letters, policies and alarms."""
    resources: Template = {}
    for queue in QueueName:
        resources |= _queue(plan, queue)
    resources[FAILED_CALLS] = _kept_long(failed_calls_queue_name(plan.prefix))
    resources |= _policies(plan)
    for queue in QueueName:
        resources |= _alarms(plan, queue)
    resources["FailedCallsAlarm"] = _alarm_of_depth(plan, failed_calls_queue_name(plan.prefix), FAILED_CALLS)
    return resources


def _queue(plan: Plan, queue: QueueName) -> Template:
    dead_letters = logical_id(queue, "dead", "letters")
    own = {"Fn::Sub": _arn(queue_name(plan.prefix, queue))}
    return {
        dead_letters: {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                **_kept_long(dead_letter_queue_name(plan.prefix, queue))["Properties"],
                "RedriveAllowPolicy": {"redrivePermission": "byQueue", "sourceQueueArns": [own]},
            },
        },
        logical_id(queue, "queue"): {
            "Type": "AWS::SQS::Queue",
            "Properties": {
                "QueueName": queue_name(plan.prefix, queue),
                "VisibilityTimeout": _visibility_timeout_seconds(plan, queue),
                "MessageRetentionPeriod": _MESSAGES_KEPT_SECONDS,
                "SqsManagedSseEnabled": True,
                "RedrivePolicy": {
                    "deadLetterTargetArn": {"Fn::GetAtt": [dead_letters, "Arn"]},
                    "maxReceiveCount": plan.max_receive_count,
                },
            },
        },
    }


def _kept_long(name: str) -> Template:
    return {
        "Type": "AWS::SQS::Queue",
        "Properties": {
            "QueueName": name,
            "MessageRetentionPeriod": _DEAD_LETTERS_KEPT_SECONDS,
            "SqsManagedSseEnabled": True,
        },
    }


def _arn(name: str) -> str:
    return f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{name}"


def _visibility_timeout_seconds(plan: Plan, queue: QueueName) -> int:
    if any(queue in queues for queues in WORKER_QUEUES.values()):
        return plan.worker_visibility_timeout_seconds
    # Source: AWS Lambda Developer Guide, "Configuring a queue to use with Lambda": six times the timeout.
    return 6 * plan.function_timeout_seconds


# ---- who may send --------------------------------------------------------------------------------------------


def _policies(plan: Plan) -> Template:
    """Return the queues' own policies. A queue has one: so events of S3 and TLS stand together."""
    gates = [logical_id(queue, "queue") for queue in GATE_QUEUES.values()]
    others = [logical_id(queue, "queue") for queue in QueueName if queue not in GATE_QUEUES.values()]
    dead = [logical_id(queue, "dead", "letters") for queue in QueueName]
    return {
        "QueuePolicy": _policy(gates, _events_of_buckets(plan, gates)),
        "TlsPolicy": _policy([*others, *dead]),
        "FailedCallsPolicy": _policy([FAILED_CALLS], _undelivered_calls(plan)),
    }


def _policy(queues: list[str], *statements: Template) -> Template:
    tls_only = {
        "Sid": "TlsOnly",
        "Effect": "Deny",
        "Principal": "*",
        "Action": "sqs:*",
        "Resource": "*",
        "Condition": {"Bool": {"aws:SecureTransport": "false"}},
    }
    return {
        "Type": "AWS::SQS::QueuePolicy",
        "Properties": {
            "Queues": [{"Ref": queue} for queue in queues],
            "PolicyDocument": {"Version": "2012-10-17", "Statement": [*statements, tls_only]},
        },
    }


def _events_of_buckets(plan: Plan, queues: list[str]) -> Template:
    return {
        "Sid": "EventsOfOurBuckets",
        "Effect": "Allow",
        "Principal": {"Service": "s3.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": [{"Fn::GetAtt": [queue, "Arn"]} for queue in queues],
        "Condition": {
            "ArnLike": {"aws:SourceArn": {"Fn::Sub": f"arn:${{AWS::Partition}}:s3:::{plan.prefix}-*"}},
            "StringEquals": {"aws:SourceAccount": {"Ref": "AWS::AccountId"}},
        },
    }


def _undelivered_calls(plan: Plan) -> Template:
    rules = f"arn:${{AWS::Partition}}:events:${{AWS::Region}}:${{AWS::AccountId}}:rule/{plan.prefix}-*"
    return {
        "Sid": "CallsThatCouldNotBeMade",
        "Effect": "Allow",
        "Principal": {"Service": "events.amazonaws.com"},
        "Action": "sqs:SendMessage",
        "Resource": [{"Fn::GetAtt": [FAILED_CALLS, "Arn"]}],
        "Condition": {"ArnLike": {"aws:SourceArn": {"Fn::Sub": rules}}},
    }


# ---- alarms --------------------------------------------------------------------------------------------------


def _alarms(plan: Plan, queue: QueueName) -> Template:
    """Return alarms that need nothing of ours to run. The watcher tells the same, sooner and with its reason."""
    live = logical_id(queue, "queue")
    return {
        logical_id(queue, "age", "alarm"): alarm(
            plan,
            f"{queue_name(plan.prefix, queue)}-age",
            namespace="AWS/SQS",
            metric="ApproximateAgeOfOldestMessage",
            dimensions={"QueueName": {"Fn::GetAtt": [live, "QueueName"]}},
            statistic="Maximum",
            period_seconds=300,
            threshold=plan.oldest_message_alarm_seconds,
        ),
        logical_id(queue, "dead", "letters", "alarm"): _alarm_of_depth(
            plan, dead_letter_queue_name(plan.prefix, queue), logical_id(queue, "dead", "letters")
        ),
    }


def _alarm_of_depth(plan: Plan, name: str, queue: str) -> Template:
    return alarm(
        plan,
        f"{name}-depth",
        namespace="AWS/SQS",
        metric="ApproximateNumberOfMessagesVisible",
        dimensions={"QueueName": {"Fn::GetAtt": [queue, "QueueName"]}},
        statistic="Maximum",
        period_seconds=300,
        threshold=1,
    )


def alarm(
    plan: Plan,
    name: str,
    *,
    namespace: str,
    metric: str,
    dimensions: Template,
    statistic: str,
    period_seconds: int,
    threshold: int,
    periods: int = 1,
    is_below: bool = False,
    missing: str = "notBreaching",
    description: str | None = None,
) -> Template:
    """Return an alarm of CloudWatch, at or above a threshold or below it, told to the topic if there is one."""
    return {
        "Type": "AWS::CloudWatch::Alarm",
        "Properties": {
            "AlarmName": name,
            **({"AlarmDescription": description} if description else {}),
            "Namespace": namespace,
            "MetricName": metric,
            "Dimensions": [{"Name": key, "Value": value} for key, value in dimensions.items()],
            "Statistic": statistic,
            "Period": period_seconds,
            "EvaluationPeriods": periods,
            "Threshold": threshold,
            "ComparisonOperator": "LessThanThreshold" if is_below else "GreaterThanOrEqualToThreshold",
            "TreatMissingData": missing,
            "AlarmActions": [plan.alarm_topic_arn] if plan.alarm_topic_arn else [],
        },
    }
