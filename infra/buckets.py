"""The bucket of a source in CloudFormation, with the doors to the gates, and the key of all buckets."""

from typing import Any

from infra.names import key_export_name, queue_name
from infra.plan import Plan
from shared.domain.files import Area
from shared.lifecycle import GATE_QUEUES

Template = dict[str, Any]

#: The files of a source outlive its stack.
RETAINED_BUCKET: Template = {
    "Type": "AWS::S3::Bucket",
    "DeletionPolicy": "Retain",
    "UpdateReplacePolicy": "Retain",
}


def key_resources(plan: Plan) -> Template:
    """Return the key of the buckets, unless the plan names one that is there. It outlives its stack like its files."""
    if plan.kms_key_arn is not None:
        return {}
    return {
        "Key": {
            "Type": "AWS::KMS::Key",
            "DeletionPolicy": "Retain",
            "UpdateReplacePolicy": "Retain",
            "Properties": {
                "Description": f"Encrypts the buckets of {plan.prefix}.",
                "EnableKeyRotation": True,
                "KeyPolicy": {
                    "Version": "2012-10-17",
                    "Statement": [
                        {
                            # Policies of IAM decide; without this line nobody could, ever again.
                            # Source: AWS KMS Developer Guide, "Default key policy".
                            "Sid": "AccountDecidesByIam",
                            "Effect": "Allow",
                            "Principal": {
                                "AWS": {"Fn::Sub": "arn:${AWS::Partition}:iam::${AWS::AccountId}:root"}
                            },
                            "Action": "kms:*",
                            "Resource": "*",
                        }
                    ],
                },
            },
        },
        "KeyAlias": {
            "Type": "AWS::KMS::Alias",
            "Properties": {"AliasName": f"alias/{plan.prefix}", "TargetKeyId": {"Ref": "Key"}},
        },
    }


def key_arn(plan: Plan) -> Any:
    """Return the ARN of the key, as the shared template knows it."""
    return plan.kms_key_arn or {"Fn::GetAtt": ["Key", "Arn"]}


def bucket_resources(plan: Plan, bucket: str) -> Template:
    """Return a bucket and its policy."""
    return {"Bucket": _bucket(plan, bucket), "BucketPolicy": _bucket_policy()}


def _bucket(plan: Plan, bucket: str) -> Template:
    key = plan.kms_key_arn or {"Fn::ImportValue": key_export_name(plan.prefix)}
    versioned = {"VersioningConfiguration": {"Status": "Enabled"}} if _is_versioned(plan) else {}
    return {
        **RETAINED_BUCKET,
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
                    {
                        "BucketKeyEnabled": True,
                        "ServerSideEncryptionByDefault": {"SSEAlgorithm": "aws:kms", "KMSMasterKeyID": key},
                    }
                ]
            },
            "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
            **versioned,
            "LifecycleConfiguration": {"Rules": _lifecycle_rules(plan)},
            "NotificationConfiguration": {"QueueConfigurations": [_door(plan, area) for area in GATE_QUEUES]},
        },
    }


def _is_versioned(plan: Plan) -> bool:
    return plan.noncurrent_retention_days is not None


def _door(plan: Plan, area: Area) -> Template:
    queue = queue_name(plan.prefix, GATE_QUEUES[area])
    return {
        "Event": "s3:ObjectCreated:*",
        "Queue": {"Fn::Sub": f"arn:${{AWS::Partition}}:sqs:${{AWS::Region}}:${{AWS::AccountId}}:{queue}"},
        "Filter": {"S3Key": {"Rules": [{"Name": "prefix", "Value": f"{area}/"}]}},
    }


def _lifecycle_rules(plan: Plan) -> list[Template]:
    """
    Return when what goes by itself: leftovers, what was set aside, and versions that a bucket keeps of what was deleted.

    Versioning is of a whole bucket. It is wanted in `final/`, where a delete by mistake costs a reading of the source
    again; elsewhere what was deleted is to be gone, and goes within a day.
    """
    days = {
        Area.TMP: plan.transient_retention_days,
        Area.QUARANTINE: plan.quarantine_retention_days,
    }
    rules: list[Template] = [
        {"Id": f"expire-{area}", "Status": "Enabled", "Prefix": f"{area}/", "ExpirationInDays": count}
        for area, count in days.items()
    ]
    if plan.noncurrent_retention_days is not None:
        rules += [
            {
                "Id": f"forget-{area}",
                "Status": "Enabled",
                "Prefix": f"{area}/",
                "NoncurrentVersionExpiration": {
                    "NoncurrentDays": plan.noncurrent_retention_days if area is Area.FINAL else 1
                },
            }
            for area in Area
        ]
        rules.append({"Id": "drop-delete-markers", "Status": "Enabled", "ExpiredObjectDeleteMarker": True})
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
