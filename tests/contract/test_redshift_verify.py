"""`esclusa redshift verify` and the doctor of Redshift, on what stands in for one: what is asked, told and taken away."""

import json
from collections.abc import Iterator

import boto3
import pytest
import structlog
import typer
from botocore.stub import Stubber
from support.redshift_server import ROLE, FakeDataClient, FastClock, redshift_stand_in

from cli.redshift import report
from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.doctor import Bucket, Verdict, examine, examine_lake, look_at_bucket
from services.publisher.redshift.place import Place
from services.publisher.redshift.verify import QUESTIONS, Scene, verify
from shared.errors import Unavailable
from shared.object_store.memory import MemoryObjectStore

BUCKET = Bucket("verification", "eu-west-1", "eu-west-1", {})
#: PostgreSQL keeps the case of quoted names; everything else that is asked holds of it, too.
OTHERWISE_IN_POSTGRESQL = ["Quoted names are folded"]


@pytest.fixture
def client(redshift_database: str) -> Iterator[FakeDataClient]:
    with redshift_stand_in(redshift_database, MemoryObjectStore()) as client:
        yield client


@pytest.fixture
def api(client: FakeDataClient) -> DataApi:
    clock = FastClock().as_clock()
    return DataApi(client, Place("dev", workgroup="analytics"), timeout_seconds=60, clock=clock)  # type: ignore[arg-type]


@pytest.fixture
def scene(api: DataApi, client: FakeDataClient) -> Scene:
    return Scene(api, client.store, BUCKET, ROLE)


def left_behind(client: FakeDataClient, scene: Scene) -> list[object]:
    schemas = scene.one(f"SELECT COUNT(*) FROM pg_namespace WHERE nspname LIKE '{scene.name}%'")
    objects = [info.location.key for info in client.store.list(BUCKET.name, "")]
    return [schemas, *objects]


def test_everything_is_asked_and_told_and_nothing_is_left_behind(client, scene, capsys):
    with structlog.testing.capture_logs(), pytest.raises(typer.Exit) as ended:
        report(scene, as_json=True)

    document = json.loads(capsys.readouterr().out)
    findings = document["findings"]
    asked = [finding["what"] for finding in findings]
    assert asked[-len(QUESTIONS) :] == [question.what for question in QUESTIONS]
    assert len(asked) == 5 + len(QUESTIONS)
    broken = {finding["what"]: finding["detail"] for finding in findings if finding["verdict"] != "held"}
    assert list(broken) == OTHERWISE_IN_POSTGRESQL, broken
    assert (document["is_ok"], ended.value.exit_code) == (False, 1)
    assert left_behind(client, scene) == [0]


def test_a_warehouse_that_does_otherwise_is_told_question_by_question(client, scene):
    client.failures = [("COPY ", "Spectrum Scan Error: something new")] * 100

    findings = {finding.what: finding for finding in verify(scene)}

    assert findings["Values of every type arrive as they are"].verdict is Verdict.BROKEN
    assert findings["Mode merge: a load, and again"].verdict is Verdict.BROKEN
    assert findings["A batch of the Data API is one transaction"].verdict is Verdict.HELD
    assert left_behind(client, scene) == [0]


def test_a_verification_that_breaks_off_cleans_up(client, scene):
    asking = verify(scene)
    for _ in range(12):
        next(asking)

    asking.close()

    assert left_behind(client, scene) == [0]


def test_a_database_that_does_not_answer_is_unavailable(client, scene):
    client.slow_answers = 10_000

    with pytest.raises(Unavailable):
        list(verify(scene))


# ---- the doctor ------------------------------------------------------------------------------------------------


def verdicts(api: DataApi, bucket: Bucket) -> dict[str, tuple[Verdict, str]]:
    return {finding.what: (finding.verdict, finding.detail) for finding in examine(api, bucket)}


@pytest.mark.parametrize(
    ("bucket", "what", "verdict", "detail"),
    [
        (Bucket("b", "eu-west-1", "us-east-1", {}), "region of b", Verdict.BROKEN, "us-east-1"),
        (Bucket("b", "eu-west-1", None, {}), "region of b", Verdict.UNKNOWN, "GetBucketLocation"),
        (
            Bucket("b", "eu-west-1", "eu-west-1", None),
            "s3:signatureAge in the policy of b",
            Verdict.UNKNOWN,
            "GetBucketPolicy",
        ),
    ],
)
def test_a_bucket_that_copy_cannot_read_is_told(api, bucket, what, verdict, detail):
    found = verdicts(api, bucket)[what]

    assert found[0] is verdict
    assert detail in found[1]


@pytest.mark.parametrize(
    ("answer", "region"), [("eu-central-1", "eu-central-1"), (None, "us-east-1"), ("EU", "eu-west-1")]
)
def test_a_buckets_region_is_told_by_its_present_name(answer, region):
    client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    told = {"LocationConstraint": answer} if answer else {}
    with Stubber(client) as stubber:
        stubber.add_response("get_bucket_location", told, {"Bucket": "b"})
        stubber.add_client_error("get_bucket_policy", "NoSuchBucketPolicy")

        assert look_at_bucket(client, "b", region="eu-west-1") == Bucket("b", "eu-west-1", region, {})


def test_what_may_not_be_asked_of_a_bucket_is_not_known():
    client = boto3.client("s3", region_name="eu-west-1", aws_access_key_id="x", aws_secret_access_key="x")
    with Stubber(client) as stubber:
        stubber.add_client_error("get_bucket_location", "AccessDenied")
        stubber.add_client_error("get_bucket_policy", "AccessDenied")

        assert look_at_bucket(client, "b", region="eu-west-1") == Bucket("b", "eu-west-1", None, None)


@pytest.mark.parametrize(
    ("age", "verdict"), [("600000", Verdict.BROKEN), (["3600000"], Verdict.HELD), (7_200_000, Verdict.HELD)]
)
def test_a_policy_that_forbids_urls_of_an_hour_is_told(api, age, verdict):
    condition = {"NumericGreaterThan": {"s3:signatureAge": age}}
    policy = {"Statement": {"Effect": "Deny", "Condition": condition}}

    found = verdicts(api, Bucket("b", "eu-west-1", "eu-west-1", policy))

    assert found["s3:signatureAge in the policy of b"][0] is verdict


def test_a_right_that_is_missing_is_told_with_what_to_grant(api, client):
    client.failures = [("stv_db_isolation_level", "permission denied for relation")]

    found = verdicts(api, BUCKET)

    assert found["TEMP on the database"] == (Verdict.HELD, "granted")
    assert found["isolation of the database"][0] is Verdict.UNKNOWN
    assert examine_lake(api, "pg_catalog").verdict is Verdict.HELD
    assert examine_lake(api, "nothing").verdict is Verdict.UNKNOWN
