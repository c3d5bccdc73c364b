"""
The manifests in `k8s/` are valid, hold together, and agree with the code.

Offline: rendered by kubectl, compared with the schemas of Kubernetes and of KEDA. No cluster has seen them.
"""

import json
import re
import shlex
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from cloudcoil.models.keda import v1alpha1 as keda
from support.commands import run_command
from support.manifests import OVERLAYS, ROOT, Manifests, Object, Pod, render, rendered, selects
from typer.main import get_command

from bench import scaling
from cli.main import app
from cli.settings_page import MODELS
from infra.names import queue_name, role_name
from infra.plan import SERVICE_ROLES, WORKER_QUEUES
from infra.settings import InfraSettings
from local import containers
from services.extractor.settings import ExtractorSettings
from services.publisher.settings import PublisherSettings
from shared.celery_sqs.settings import WorkerSettings
from shared.ports import QueueName
from shared.settings import FleetSettings
from shared.telemetry.settings import MetricsSettings

#: The oldest version of Kubernetes that is promised, and the newest whose schemas are at hand.
KUBERNETES_VERSIONS = ("1.29", "1.37")

WORKERS = ("extractor", "backfiller", "processor", "publisher")
DOCS = (ROOT / "docs" / "kubernetes.md").read_text()


@pytest.fixture(params=OVERLAYS)
def manifests(request: pytest.FixtureRequest) -> Manifests:
    return rendered(request.param)


def name_of(item: Object) -> str:
    return f"{item['kind']}/{item['metadata']['name']}"


# ---- schemas -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", KUBERNETES_VERSIONS)
def test_every_object_is_valid(manifests: Manifests, version: str) -> None:
    for item in manifests.objects:
        if item["apiVersion"] != "keda.sh/v1alpha1":
            kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_every_object_of_keda_is_valid_and_has_no_field_that_keda_does_not_know(overlay: str) -> None:
    items = [item for item in rendered(overlay).objects if item["apiVersion"] == "keda.sh/v1alpha1"]

    for item in items:
        model = getattr(keda, item["kind"]).model_validate(item)
        assert model.model_dump(mode="json", by_alias=True, exclude_unset=True) == item
    assert len(items) == len(WORKERS) + 1


def test_keda_changes_nothing_else_of_the_local_fleet() -> None:
    of_keda = ("keda.sh/v1alpha1", "Secret")

    rest = [
        item
        for item in rendered("local-keda").objects
        if item["apiVersion"] not in of_keda and item["kind"] not in of_keda
    ]

    assert rest == list(rendered("local").objects)


def test_a_mistake_is_found() -> None:
    deployment = json.loads(json.dumps(rendered("aws").named("Deployment", "extractor")))
    deployment["spec"]["template"]["spec"]["terminationGracePeriod"] = 90

    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(deployment, KUBERNETES_VERSIONS[0], strict=True)


# ---- references ------------------------------------------------------------------------------------------------


def test_everything_lives_in_one_namespace(manifests: Manifests) -> None:
    namespaces = {
        item["metadata"].get("namespace") for item in manifests.objects if item["kind"] != "Namespace"
    }

    # The roles trust service accounts of this namespace.
    namespace = InfraSettings.model_fields["service_account_namespace"].default
    assert namespaces == {manifests.of_kind("Namespace")[0]["metadata"]["name"]} == {namespace}


def test_what_a_pod_names_is_there(manifests: Manifests) -> None:
    there = {name_of(item) for item in manifests.objects} | {"Secret/passwords", "ServiceAccount/default"}

    for pod in manifests.pods():
        named = {f"ServiceAccount/{pod.spec.get('serviceAccountName', 'default')}"}
        for source in pod.container.get("envFrom", ()):
            named.add(f"ConfigMap/{source['configMapRef']['name']}")
        volumes = {volume["name"]: volume for volume in pod.spec["volumes"]}
        for volume in volumes.values():
            if "configMap" in volume:
                named.add(f"ConfigMap/{volume['configMap']['name']}")
            if "secret" in volume:
                named.add(f"Secret/{volume['secret']['secretName']}")
        mounted = {mount["name"] for mount in pod.container["volumeMounts"]}
        claimed = {"data"} if pod.owner.startswith("StatefulSet/") else set()

        assert named <= there, pod.owner
        assert mounted == set(volumes) | claimed, pod.owner


def test_every_selector_selects_something(manifests: Manifests) -> None:
    pods = list(manifests.pods())

    for item in manifests.of_kind("NetworkPolicy", "PodDisruptionBudget"):
        selector = item["spec"].get("podSelector", item["spec"].get("selector"))
        assert any(selects(selector, pod.labels) for pod in pods), name_of(item)
    for item in manifests.of_kind("Service"):
        (pod,) = [pod for pod in pods if selects({"matchLabels": item["spec"]["selector"]}, pod.labels)]
        ports = {port["containerPort"] for port in pod.container["ports"]}
        assert {port["port"] for port in item["spec"]["ports"]} <= ports
    for item in manifests.of_kind("Deployment", "StatefulSet"):
        assert selects(item["spec"]["selector"], item["spec"]["template"]["metadata"]["labels"])


# ---- hardening -------------------------------------------------------------------------------------------------


def test_the_namespace_admits_nothing_but_restricted_pods(manifests: Manifests) -> None:
    (namespace,) = manifests.of_kind("Namespace")

    assert namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"] == "restricted"


def test_every_pod_is_restricted_and_writes_only_where_it_has_to(manifests: Manifests) -> None:
    """As the Pod Security Standards have it, and more. Source: Kubernetes documentation, "Pod Security Standards"."""
    for pod in manifests.pods():
        context, container = pod.spec["securityContext"], pod.container

        assert context["runAsNonRoot"] is True
        assert context["runAsUser"] == (999 if container["image"].startswith("postgres:") else 10001)
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }
        assert pod.spec["automountServiceAccountToken"] is False
        assert not {"hostNetwork", "hostPID", "hostIPC", "hostPath"} & set(json.dumps(pod.spec).split('"'))
        assert {"cpu", "memory"} <= set(container["resources"]["requests"]), pod.owner
        assert "memory" in container["resources"]["limits"], pod.owner
        assert {"name": "tmp", "mountPath": "/tmp"} in container["volumeMounts"], pod.owner  # noqa: S108


@pytest.mark.parametrize("name", ["prove", "prove-all", "control"])
def test_who_compares_rows_has_a_disk_to_lay_them_down(manifests: Manifests, name: str) -> None:
    (pod,) = (pod for pod in manifests.pods() if pod.name == name)
    (volume,) = (volume for volume in pod.spec["volumes"] if volume["name"] == "tmp")

    # Forty bytes for each row of three sides (docs/reconciliation.md): 170 million rows.
    assert volume["emptyDir"] == {"sizeLimit": "20Gi"}


def test_nothing_of_ours_needs_a_shell(manifests: Manifests) -> None:
    started = [
        part for pod in manifests.pods() for part in (pod.container.get("command", ()), *_probes(pod)) if part
    ]

    assert {part[0] for part in started} <= {"python", "pg_isready"}


def _probes(pod: Pod) -> Iterator[list[str]]:
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if "exec" in (probe := pod.container.get(name, {})):
            yield probe["exec"]["command"]


def test_what_no_policy_allows_is_denied(manifests: Manifests) -> None:
    deny = manifests.named("NetworkPolicy", "default-deny")["spec"]
    opened = [rule for item in manifests.of_kind("NetworkPolicy") for rule in item["spec"].get("egress", ())]
    blocks = [to["ipBlock"] for rule in opened for to in rule["to"] if "ipBlock" in to]

    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    # What an instance tells about itself, its credentials among it, is reached by none.
    assert all("169.254.0.0/16" in block["except"] for block in blocks if block["cidr"] == "0.0.0.0/0")
    assert {block["cidr"] for block in blocks} == {"0.0.0.0/0", "::/0", "169.254.20.10/32"}


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_secret_stands_in_a_manifest(overlay: str) -> None:
    manifests = rendered(overlay)
    secrets = {
        item["metadata"]["name"].rpartition("-")[0]: item["data"] for item in manifests.of_kind("Secret")
    }
    environments = [manifests.environment(pod) for pod in manifests.pods()]
    sensitive = {
        (name, value)
        for environment in environments
        for name, value in environment.items()
        if re.search(r"PASSWORD|TOKEN|SECRET|KEY|DSN", name)
    }

    # The local AWS server asks for keys, and takes any.
    assert set(secrets) <= {"local-aws"}
    assert {
        value
        for name, value in sensitive
        if not value.startswith(("secretsmanager:", "/")) and not name.startswith("AWS_")
    } == set()
    assert {value for name, value in sensitive if name.startswith("AWS_")} <= {"test", "/dev/null"}


# ---- queues and scaling ----------------------------------------------------------------------------------------


def queue_of(manifests: Manifests, worker: str) -> QueueName:
    pod = manifests.pod(f"Deployment/{worker}")
    if pod.container["image"].rpartition("/")[2].startswith("esclusa-extractor"):
        return QueueName(
            manifests.environment(pod).get(
                "ESCLUSA_EXTRACT_QUEUE", ExtractorSettings.model_fields["extract_queue"].default
            )
        )
    (queue,) = WORKER_QUEUES[worker]
    return queue


def test_every_queue_of_a_worker_is_served_by_one_deployment(manifests: Manifests) -> None:
    workers = [pod.name for pod in manifests.pods() if pod.labels["app.kubernetes.io/component"] == "worker"]

    served = [queue_of(manifests, worker) for worker in workers]

    assert sorted(workers) == sorted(WORKERS)
    assert sorted(served) == sorted(queue for queues in WORKER_QUEUES.values() for queue in queues)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("worker", WORKERS)
def test_a_worker_is_scaled_by_its_own_queue_and_by_what_it_does_at_once(overlay: str, worker: str) -> None:
    manifests = rendered(overlay)
    environment = manifests.environment(manifests.pod(f"Deployment/{worker}"))
    urls = json.loads(environment["ESCLUSA_QUEUE_URLS"])

    spec = manifests.named("ScaledObject", worker)["spec"]
    (trigger,) = spec["triggers"]
    told = trigger["metadata"]

    assert spec["scaleTargetRef"]["name"] == worker
    assert (spec["pollingInterval"], spec["cooldownPeriod"], spec["minReplicaCount"]) == (30, 300, 0)
    assert trigger["type"] == "aws-sqs-queue"
    assert told["queueURL"].rpartition("/")[2] == urls[queue_of(manifests, worker)].rpartition("/")[2]
    assert told["queueLength"] == environment["ESCLUSA_CONCURRENCY"]
    assert (told["scaleOnInFlight"], told["scaleOnDelayed"]) == ("true", "false")
    assert told["awsRegion"] == environment["ESCLUSA_REGION"]
    assert all(type(value) is str for value in told.values())
    assert trigger["authenticationRef"]["name"] == "queues"


def test_the_page_about_scaling_reckons_with_what_the_manifests_say() -> None:
    manifests, tasks, most = rendered("aws"), {}, {}
    for name in scaling.WORKERS:
        spec = manifests.named("ScaledObject", name)["spec"]
        tasks[name] = int(spec["triggers"][0]["metadata"]["queueLength"])
        most[name] = spec["maxReplicaCount"]
        behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]

        assert (spec["pollingInterval"], spec["cooldownPeriod"]) == (
            scaling.POLL_SECONDS,
            scaling.COOLDOWN_SECONDS,
        )
        assert behavior == {
            "scaleUp": {
                "stabilizationWindowSeconds": 0,
                "selectPolicy": "Max",
                "policies": [
                    policy("Percent", scaling.SCALE_UP_PERCENT, scaling.SCALE_UP_PERIOD_SECONDS),
                    policy("Pods", scaling.SCALE_UP_PODS, scaling.SCALE_UP_PERIOD_SECONDS),
                ],
            },
            "scaleDown": {
                "stabilizationWindowSeconds": scaling.SCALE_DOWN_WINDOW_SECONDS,
                "policies": [
                    policy("Percent", scaling.SCALE_DOWN_PERCENT, scaling.SCALE_DOWN_PERIOD_SECONDS)
                ],
            },
        }
    assert tasks == {name: worker.concurrency for name, worker in scaling.WORKERS.items()}
    assert most == {name: worker.most_pods for name, worker in scaling.WORKERS.items()}


def test_a_container_of_compose_has_as_many_tasks_as_the_page_about_scaling_says() -> None:
    services = yaml.safe_load((ROOT / "compose.workers.yml").read_text())["services"]
    told = {
        name: services[name].get("environment", {}).get("ESCLUSA_CONCURRENCY", scaling.TASKS_OF_A_CONTAINER)
        for name in scaling.WORKERS
    }

    assert set(told.values()) == {scaling.TASKS_OF_A_CONTAINER}
    assert WorkerSettings.model_fields["concurrency"].default == scaling.TASKS_OF_A_CONTAINER


def policy(kind: str, value: int, period_seconds: int) -> dict[str, Any]:
    return {"type": kind, "value": value, "periodSeconds": period_seconds}


def test_keda_says_how_many_workers_there_are_and_nobody_else() -> None:
    deployments = [rendered("aws").named("Deployment", worker) for worker in WORKERS]

    assert all("replicas" not in item["spec"] for item in deployments)


# ---- settings --------------------------------------------------------------------------------------------------


def known_settings() -> set[str]:
    """Return every variable that a settings class reads."""
    found = {"ESCLUSA_SOURCES"}
    for model in MODELS:
        for name, field in model.model_fields.items():
            found.add(str(field.validation_alias or f"{model.model_config['env_prefix']}{name}".upper()))
    return found


def test_every_setting_is_one_that_something_reads(manifests: Manifests) -> None:
    names = {name for pod in manifests.pods() for name in manifests.environment(pod)}

    assert {name for name in names if name.startswith("ESCLUSA_")} <= known_settings()
    assert {name for name in names if not name.startswith("ESCLUSA_")} <= {
        "AWS_ENDPOINT_URL",
        *[
            "AWS_REGION",
            "AWS_DEFAULT_REGION",
            "AWS_ACCESS_KEY_ID",
            "AWS_SECRET_ACCESS_KEY",
            "AWS_CONFIG_FILE",
            "AWS_SHARED_CREDENTIALS_FILE",
            "AWS_EC2_METADATA_DISABLED",
            "POLARS_MAX_THREADS",
            "POSTGRES_USER",
            "POSTGRES_DB",
            "POSTGRES_PASSWORD_FILE",
            "PGDATA",
        ],
    }


@pytest.mark.parametrize("worker", WORKERS)
def test_settings_are_whole_and_do_not_contradict_each_other(
    manifests: Manifests, worker: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = manifests.environment(manifests.pod(f"Deployment/{worker}"))
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    fleet, settings = FleetSettings(), WorkerSettings()  # type: ignore[call-arg]
    PublisherSettings()

    assert set(fleet.queue_urls) == set(QueueName)
    assert {url.rpartition("/")[2] for url in fleet.queue_urls.values()} == {
        queue_name(fleet.bucket_prefix, queue) for queue in QueueName
    }
    assert settings.concurrency == int(environment["ESCLUSA_CONCURRENCY"])


def test_the_local_fleet_has_the_settings_of_what_is_provisioned_for_it() -> None:
    manifests = rendered("local-keda")
    environment = manifests.environment(manifests.pod("Job/provision"))

    wanted = containers.environment_of_fleet()

    assert {name: environment.get(name) for name in wanted} == wanted
    names = {item["metadata"]["name"] for item in manifests.of_kind("Service")}
    hosts = (
        containers.AWS_HOST,
        containers.CRM_HOST,
        containers.CONTROL_HOST,
        containers.WAREHOUSE_HOST,
        containers.SHOP_HOST,
    )
    assert names == set(hosts)


def test_every_secret_of_the_local_fleet_is_mounted_where_it_is_read() -> None:
    job = rendered("local-keda").pod("Job/provision")
    (mount,) = [item for item in job.container["volumeMounts"] if item["name"] == "secrets"]
    (volume,) = [item["secret"] for item in job.spec["volumes"] if item["name"] == "secrets"]

    assert Path(mount["mountPath"]) == containers.SECRETS
    assert {item["path"] for item in volume["items"]} == set(containers.SECRET_FILES)


def test_a_worker_has_time_to_end(manifests: Manifests) -> None:
    for worker in WORKERS:
        pod = manifests.pod(f"Deployment/{worker}")
        environment = manifests.environment(pod)
        needed_seconds = (
            int(environment["ESCLUSA_SOFT_SHUTDOWN_SECONDS"])
            + int(environment["ESCLUSA_WAIT_TIME_SECONDS"])
            + 10
        )

        assert pod.spec["terminationGracePeriodSeconds"] > needed_seconds


def test_a_worker_that_is_silent_is_started_anew_and_one_that_is_busy_is_not(manifests: Manifests) -> None:
    for worker in WORKERS:
        container = manifests.pod(f"Deployment/{worker}").container

        for probe in ("startupProbe", "livenessProbe"):
            assert container[probe]["exec"]["command"] == ["python", "-m", "shared.liveness"]
        assert "readinessProbe" not in container, "nobody calls a worker"


def test_prometheus_finds_workers_and_exporter_at_a_named_port(manifests: Manifests) -> None:
    port = {"name": "metrics", "containerPort": MetricsSettings.model_fields["metrics_port"].default}
    allowed = manifests.named("NetworkPolicy", "metrics")["spec"]
    told = [pod for pod in manifests.pods() if port in pod.container.get("ports", ())]

    assert {pod.name for pod in told} == {*WORKERS, "exporter"}
    assert all(selects(allowed["podSelector"], pod.labels) for pod in told)
    assert allowed["ingress"][0]["ports"] == [{"protocol": "TCP", "port": "metrics"}]
    assert all("ESCLUSA_METRICS_PORT" not in manifests.environment(pod) for pod in told)


# ---- images ----------------------------------------------------------------------------------------------------


def dockerfiles() -> dict[str, str]:
    """Return the text of each Dockerfile by the name of its image."""
    found = {}
    for path in [
        *ROOT.glob("services/*/Dockerfile"),
        *ROOT.glob("cli/Dockerfile"),
        *ROOT.glob("local/Dockerfile"),
    ]:
        text = path.read_text()
        found[re.findall(r'image\.title="([a-z-]+)"', text)[0]] = text
    return found


def test_every_image_is_one_that_is_built_here(manifests: Manifests) -> None:
    built = dockerfiles()

    for pod in manifests.pods():
        name, _, tag = pod.container["image"].rpartition("/")[2].partition(":")
        if name == "postgres":
            continue
        assert "USER 10001:10001" in built[name], pod.owner
        assert tag == re.findall(r'(?m)^version = "(.*)"', (ROOT / "pyproject.toml").read_text())[0]
        if pod.name in WORKERS:
            service = re.findall(r'ENTRYPOINT \["python", "-m", "services\.(\w+)\.app"\]', built[name])
            assert name == f"esclusa-{service[0]}"
            assert "ESCLUSA_ALIVE_FILE=/tmp/" in built[name]


# ---- sources, commands, accounts ---------------------------------------------------------------------------------


def test_the_source_files_go_along_whole(manifests: Manifests) -> None:
    files = {path.name: path.read_text() for path in (ROOT / "sources").glob("*.yaml")}

    assert manifests.named("ConfigMap", "sources")["data"] == files


def test_every_job_runs_a_command_that_there_is(manifests: Manifests) -> None:
    commands: Mapping[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
    for pod in manifests.pods():
        if "esclusa-control" not in pod.container["image"] or "args" not in pod.container:
            continue
        command, *options = pod.container["args"]

        # Parsed, not run.
        commands[command].make_context(command, [str(option) for option in options])
        mounted = {mount["mountPath"] for mount in pod.container["volumeMounts"]}
        reads_files = "ESCLUSA_SOURCES" in {
            parameter.envvar for parameter in commands[command].params if hasattr(parameter, "envvar")
        }
        assert ("/etc/esclusa/sources" in mounted) or not reads_files, pod.owner


def test_every_part_of_the_local_stack_is_one_that_its_image_runs() -> None:
    known = set(re.findall(r"python -m local\.containers (\w+)", containers.__doc__ or ""))
    started = {
        pod.container["args"][0]
        for pod in rendered("local-keda").pods()
        if pod.container["image"].startswith("esclusa-local:")
    }

    assert started == {"aws", "provision", "crm", "shop"}
    assert started <= known


def test_the_nightly_jobs_are_those_of_a_crontab() -> None:
    crontab = run_command("crontab", "--sources", str(ROOT / "sources"), "--json").document
    wanted = {
        (line["schedule"], *shlex.split(line["command"])[1:])
        for line in [*crontab["recounts"], *crontab["proofs"], *crontab["compactions"]]
    }

    jobs = {
        (item["spec"]["schedule"], *rendered("aws").pod(name_of(item)).container["args"])
        for item in rendered("aws").of_kind("CronJob")
        if item["metadata"]["name"] != "enqueue"
    }

    assert jobs == wanted


def test_two_of_a_kind_never_run_at_once(manifests: Manifests) -> None:
    assert {item["spec"]["concurrencyPolicy"] for item in manifests.of_kind("CronJob")} == {"Forbid"}


def test_the_sweeper_is_a_job_only_where_no_lambda_of_it_is_called() -> None:
    def has_sweeper(overlay: str) -> bool:
        return any(pod.container.get("args", [""])[0] == "sweep" for pod in rendered(overlay).pods())

    assert {overlay: has_sweeper(overlay) for overlay in OVERLAYS} == {
        "aws": False,
        "local-keda": True,
    }


def test_each_service_account_takes_the_role_that_is_named_as_it() -> None:
    accounts = {
        item["metadata"]["name"]: item["metadata"]["annotations"]["eks.amazonaws.com/role-arn"]
        for item in rendered("aws").of_kind("ServiceAccount")
    }
    used = {pod.owner: pod.spec["serviceAccountName"] for pod in rendered("aws").pods()}

    assert accounts == {
        name: f"arn:aws:iam::111122223333:role/{role_name('esclusa', name)}" for name in SERVICE_ROLES
    }
    assert used["Deployment/extractor"] == used["Deployment/backfiller"] == "extractor"
    assert set(used.values()) == set(SERVICE_ROLES)


# ---- the pages -------------------------------------------------------------------------------------------------


def test_the_command_that_the_page_gives_makes_the_overlay_ones_own(tmp_path: Path) -> None:
    (expression,) = re.findall(r"sed -i '([^']+)' k8s/overlays/mine/\*", DOCS)
    for part in ("k8s", "sources"):
        shutil.copytree(ROOT / part, tmp_path / part)
    mine = tmp_path / "k8s" / "overlays" / "mine"
    shutil.copytree(ROOT / "k8s" / "overlays" / "aws", mine)
    for path in mine.iterdir():
        text = path.read_text()
        for pattern, value in re.findall(r"s/([^/]+)/([^/]+)/g", expression):
            text = text.replace(pattern, value)
        path.write_text(text)

    told = yaml.safe_dump(list(render(mine).objects))

    assert "111122223333" not in told
    assert "eu-west-1" not in told
    assert "arn:aws:iam::444455556666:role/esclusa-extractor" in told


def test_the_page_makes_every_password_that_the_local_fleet_needs() -> None:
    readme = (ROOT / "README.md").read_text()
    (made,), (made_too,) = (
        {
            frozenset(re.sub(r"[\\\s]+", " ", names).split())
            for names in re.findall(r"\$\(for name in ([^;]+); do echo --from-literal", text)
        }
        for text in (DOCS, readme)
    )
    needed = {
        item["key"]
        for pod in rendered("local-keda").pods()
        for volume in pod.spec["volumes"]
        for item in volume.get("secret", {}).get("items", ())
    }

    assert made == made_too == needed
