"""Stacks on a CloudFormation that answers: created, updated, left alone, taken in, and mended after a failure."""

import json
import os
import secrets
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import boto3
import pytest

from infra.deploy import Upload, deploy_source_stack, deploy_stack
from infra.names import logical_id, queue_name, stack_name
from infra.plan import InlineCode, Plan
from infra.templates import Template, bucket_template, shared_template, source_template
from infra.uploads import uploading_to
from shared.errors import ConfigurationError
from shared.ports import QueueName


@dataclass
class Account:
    """An account in which one prefix is ours."""

    plan: Plan

    @property
    def cloudformation(self) -> Any:
        return boto3.client("cloudformation")

    @property
    def shared_name(self) -> str:
        return stack_name(self.plan.prefix)

    @property
    def source_name(self) -> str:
        return stack_name(self.plan.prefix, "shop")

    @property
    def bucket(self) -> str:
        return f"{self.plan.prefix}-shop"

    def status(self, name: str) -> str:
        return str(self.cloudformation.describe_stacks(StackName=name)["Stacks"][0]["StackStatus"])

    def deploy_shared(self, plan: Plan | None = None) -> None:
        self.bring_shared_to(shared_template(plan or self.plan, []))

    def bring_shared_to(self, template: Template) -> bool:
        return deploy_stack(self.cloudformation, self.shared_name, template, upload=self.upload)

    @property
    def upload(self) -> Upload:
        client, bucket = boto3.client("s3"), f"{self.plan.prefix}-templates"
        location = {"LocationConstraint": os.environ["AWS_REGION"]}
        with suppress(client.exceptions.BucketAlreadyOwnedByYou):
            client.create_bucket(Bucket=bucket, CreateBucketConfiguration=location)  # type: ignore[arg-type]
        return uploading_to(client, bucket)

    def deploy_source(self) -> None:
        deploy_source_stack(
            self.cloudformation,
            self.source_name,
            self.source_template(),
            bucket=self.bucket,
            bucket_template=bucket_template(bucket=self.bucket),
            bucket_exists=self.has_bucket,
        )

    def source_template(self) -> Template:
        database = f"{self.plan.prefix.replace('-', '_')}_shop"
        return source_template(self.plan, source="shop", bucket=self.bucket, database=database)

    def make_bucket(self) -> str:
        location = {"LocationConstraint": os.environ["AWS_REGION"]}
        boto3.client("s3").create_bucket(Bucket=self.bucket, CreateBucketConfiguration=location)  # type: ignore[arg-type]
        return self.bucket

    def has_bucket(self) -> bool:
        return self.bucket in {bucket["Name"] for bucket in boto3.client("s3").list_buckets()["Buckets"]}

    def doors(self) -> int:
        found = boto3.client("s3").get_bucket_notification_configuration(Bucket=self.bucket)
        return len(found.get("QueueConfigurations", ()))

    def lose_stack(self, name: str) -> None:
        self.cloudformation.delete_stack(StackName=name)
        self.cloudformation.get_waiter("stack_delete_complete").wait(
            StackName=name, WaiterConfig={"Delay": 1, "MaxAttempts": 60}
        )


@pytest.fixture
def account(aws_env: dict[str, str]) -> Account:
    return Account(
        Plan(
            prefix=f"deploy-{secrets.token_hex(4)}",
            ledger_dsn="secretsmanager:esclusa/ledger#dsn",
            warehouse_dsn="secretsmanager:esclusa/warehouse#dsn",
            code=InlineCode(),
        )
    )


def test_what_is_deployed_is_there_and_tells_the_urls_of_its_queues(account: Account) -> None:
    account.deploy_shared()

    described = account.cloudformation.describe_stacks(StackName=account.shared_name)["Stacks"][0]
    outputs = {output["OutputKey"]: output["OutputValue"] for output in described["Outputs"]}
    for queue in QueueName:
        name = queue_name(account.plan.prefix, queue)
        url = boto3.client("sqs").get_queue_url(QueueName=name)["QueueUrl"]
        assert outputs[logical_id(queue, "queue", "url")] == url


def test_deploying_again_changes_nothing(account: Account) -> None:
    for _ in range(2):
        account.deploy_shared()
        account.deploy_source()

    assert account.status(account.shared_name) == "CREATE_COMPLETE"
    assert account.status(account.source_name) == "CREATE_COMPLETE"


def test_a_changed_plan_reaches_what_is_deployed(account: Account) -> None:
    account.deploy_shared()

    account.deploy_shared(replace(account.plan, worker_visibility_timeout_seconds=77))

    sqs = boto3.client("sqs")
    url = sqs.get_queue_url(QueueName=queue_name(account.plan.prefix, QueueName.EXTRACT))["QueueUrl"]
    found = sqs.get_queue_attributes(QueueUrl=url, AttributeNames=["VisibilityTimeout"])
    assert found["Attributes"]["VisibilityTimeout"] == "77"
    assert account.status(account.shared_name) == "UPDATE_COMPLETE"


def test_a_lost_stack_takes_its_bucket_in_again_with_all_it_holds(account: Account) -> None:
    account.deploy_shared()
    account.deploy_source()
    s3 = boto3.client("s3")
    s3.put_object(Bucket=account.bucket, Key="final/kept", Body=b"kept")
    account.lose_stack(account.source_name)
    s3.put_bucket_notification_configuration(Bucket=account.bucket, NotificationConfiguration={})

    account.deploy_source()

    assert s3.get_object(Bucket=account.bucket, Key="final/kept")["Body"].read() == b"kept"
    assert account.doors() == 4
    account.deploy_source()


def test_a_bucket_left_by_a_creation_that_failed_is_taken_in(account: Account) -> None:
    account.deploy_shared()
    account.make_bucket()
    with pytest.raises(ConfigurationError, match=account.source_name):
        deploy_stack(account.cloudformation, account.source_name, account.source_template())

    account.deploy_source()

    assert account.doors() == 4


def test_a_stack_whose_creation_failed_can_be_deployed_once_the_cause_is_cured(account: Account) -> None:
    taken = {"Type": "AWS::S3::Bucket", "Properties": {"BucketName": account.make_bucket()}}
    broken = shared_template(account.plan, [])
    broken["Resources"]["Taken"] = taken
    with pytest.raises(ConfigurationError, match=f"stack {account.shared_name} failed: .*Taken: .*exists"):
        account.bring_shared_to(broken)

    account.deploy_shared()

    assert account.status(account.shared_name) == "CREATE_COMPLETE"


def test_an_adoption_that_died_half_way_is_begun_anew(account: Account) -> None:
    account.deploy_shared()
    account.make_bucket()
    account.cloudformation.create_change_set(
        StackName=account.source_name,
        ChangeSetName="adopt-bucket",
        ChangeSetType="IMPORT",
        TemplateBody=json.dumps(bucket_template(bucket=account.bucket)),
        ResourcesToImport=[
            {
                "ResourceType": "AWS::S3::Bucket",
                "LogicalResourceId": "Bucket",
                "ResourceIdentifier": {"BucketName": account.bucket},
            }
        ],
    )
    assert account.status(account.source_name) == "REVIEW_IN_PROGRESS"

    account.deploy_source()

    assert account.doors() == 4
