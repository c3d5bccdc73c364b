"""
CloudFormation, generated: one template for what all sources share, one for each source.

The same templates go to a local AWS server and to AWS. What differs is in the `Plan`.
"""

from collections.abc import Sequence
from typing import Any

from infra.buckets import RETAINED_BUCKET, bucket_resources, key_arn, key_resources
from infra.functions import function_resources
from infra.names import key_export_name, logical_id
from infra.plan import SERVICE_ROLES, Plan
from infra.queues import queue_resources
from infra.roles import service_roles
from shared.domain.contracts import Origin
from shared.ports import QueueName

Template = dict[str, Any]


def shared_template(plan: Plan, origins: Sequence[Origin]) -> Template:
    """
    Return the template of queues, Lambdas, roles and the key of the buckets.

    Raises:
        ConfigurationError: if the secrets of the sources are more than the policies of a role can name.
    """
    key = key_arn(plan)
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": "Esclusa: queues, gates, cleaner, sweeper, watcher and roles that all sources share.",
        "Resources": {
            **key_resources(plan),
            **queue_resources(plan),
            **function_resources(plan, key=key),
            **service_roles(plan, origins, key=key),
        },
        "Outputs": {
            **{
                logical_id(queue, "queue", "url"): {"Value": {"Ref": logical_id(queue, "queue")}}
                for queue in QueueName
            },
            **{
                logical_id(role, "role", "arn"): {"Value": {"Fn::GetAtt": [logical_id(role, "role"), "Arn"]}}
                for role in SERVICE_ROLES
            },
            "KeyArn": {"Value": key, "Export": {"Name": key_export_name(plan.prefix)}},
        },
    }


def source_template(plan: Plan, *, source: str, bucket: str, database: str) -> Template:
    """Return the template of a source: its bucket with the doors to the gates, and its Glue database."""
    return {
        "AWSTemplateFormatVersion": "2010-09-09",
        "Description": f"Esclusa: bucket and catalog of the source {source}.",
        "Resources": {
            **bucket_resources(plan, bucket),
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
    bare = {**RETAINED_BUCKET, "Properties": {"BucketName": bucket}}
    return {"AWSTemplateFormatVersion": "2010-09-09", "Resources": {"Bucket": bare}}
