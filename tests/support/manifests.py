"""The manifests in `k8s/`, rendered as `kubectl apply -k` would, without a cluster."""

import shutil
import subprocess
import sysconfig
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import yaml

ROOT = Path(__file__).parents[2]
#: `local-keda` holds all of `local`; a test holds it to that.
OVERLAYS = ("aws", "local-keda")

Object: TypeAlias = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Pod:
    """What a workload makes pods of."""

    #: `Deployment/extractor`
    owner: str
    labels: Mapping[str, str]
    spec: Object

    @property
    def name(self) -> str:
        """The name of the workload."""
        return self.owner.partition("/")[2]

    @property
    def container(self) -> Object:
        """Its one container."""
        (container,) = self.spec["containers"]
        return dict(container)


@dataclass(frozen=True, slots=True)
class Manifests:
    """Everything of an overlay."""

    objects: tuple[Object, ...]

    def of_kind(self, *kinds: str) -> list[Object]:
        """Return the objects of some kinds."""
        return [item for item in self.objects if item["kind"] in kinds]

    def named(self, kind: str, name: str) -> Object:
        """Return one object; a name that a generator made ends with a hash."""
        (found,) = [
            item
            for item in self.of_kind(kind)
            if item["metadata"]["name"] == name or item["metadata"]["name"].rpartition("-")[0] == name
        ]
        return found

    def pods(self) -> Iterator[Pod]:
        """Yield what makes pods."""
        for item in self.of_kind("Deployment", "StatefulSet", "Job", "CronJob"):
            spec = item["spec"]["jobTemplate"]["spec"] if item["kind"] == "CronJob" else item["spec"]
            template = spec["template"]
            yield Pod(
                f"{item['kind']}/{item['metadata']['name']}", template["metadata"]["labels"], template["spec"]
            )

    def pod(self, owner: str) -> Pod:
        """Return the pods of one workload."""
        (found,) = [pod for pod in self.pods() if pod.owner == owner]
        return found

    def environment(self, pod: Pod) -> dict[str, str]:
        """Return the environment that the manifests give to the container of a pod."""
        environment: dict[str, str] = {}
        for source in pod.container.get("envFrom", ()):
            environment |= self.named("ConfigMap", source["configMapRef"]["name"]).get("data", {})
        return environment | {item["name"]: item["value"] for item in pod.container.get("env", ())}


@cache
def rendered(overlay: str) -> Manifests:
    """Render an overlay."""
    return render(ROOT / "k8s" / "overlays" / overlay)


def render(directory: Path) -> Manifests:
    """Render a directory with a kustomization."""
    kubectl = shutil.which("kubectl", path=sysconfig.get_path("scripts"))
    assert kubectl is not None, "the extra `dev` brings kubectl: make .venv/.dev"
    done = subprocess.run(
        [kubectl, "kustomize", str(directory)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "kustomize warns of something"
    return Manifests(tuple(yaml.safe_load_all(done.stdout)))


def selects(selector: Mapping[str, Any], labels: Mapping[str, str]) -> bool:
    """Return whether a selector of labels, as policies and budgets have it, matches."""
    wanted = selector.get("matchLabels", {})
    expressions = selector.get("matchExpressions", [])
    assert all(item["operator"] == "In" for item in expressions)
    return all(labels.get(name) == value for name, value in wanted.items()) and all(
        labels.get(item["key"]) in item["values"] for item in expressions
    )
