"""
An EC2 instance that runs the services from their images: what cloud-init does at its first boot.

Each service is a unit of systemd around a container, with the role of its service: the instance's own role can do nothing
but take these. Cron calls the command `esclusa`, which is a container too, in the role that its command needs.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import yaml

from infra.plan import AUDITOR, PLANNER, UPKEEP
from shared.celery_sqs.settings import WorkerSettings
from shared.errors import ConfigurationError
from shared.telemetry.settings import MetricsSettings

#: Source: Amazon EC2 User Guide, "Run commands when you launch an EC2 instance with user data input".
MAX_USER_DATA_BYTES: Final = 16 * 1024
MAX_PORT: Final = 65_535

#: Service → role, image, and what its container is given beside the settings.
SERVICES: Final[Mapping[str, tuple[str, str, str]]] = {
    "extractor": ("extractor", "esclusa-extractor", "--memory 1g --tmpfs /tmp"),
    "backfiller": (
        *("extractor", "esclusa-extractor"),
        "--memory 1g --tmpfs /tmp --env ESCLUSA_EXTRACT_QUEUE=backfill",
    ),
    # They work on copies of files as large as a batch: on the disk, not in memory.
    "processor": ("processor", "esclusa-processor", "--memory 2g --volume /tmp"),
    "publisher": ("publisher", "esclusa-publisher", "--memory 1g --volume /tmp"),
}

#: The first word of a command → the role it needs. All others: the planner's.
_ROLES_OF_COMMANDS: Final[Mapping[str, str]] = {
    "prove": AUDITOR,
    "compact": UPKEEP,
    "widen": UPKEEP,
    "rollback": UPKEEP,
}


@dataclass(frozen=True, slots=True)
class Host:
    """What an instance is to run."""

    region: str
    #: Where images are pulled from: `111122223333.dkr.ecr.eu-west-1.amazonaws.com`.
    registry: str
    tag: str
    #: The bucket whose `sources/` holds the source files.
    source_bucket: str
    #: Role → ARN.
    role_arns: Mapping[str, str]
    #: The settings of the deployment. No secret among them.
    environment: Mapping[str, str]
    #: Service → how many of it.
    counts: Mapping[str, int]


def user_data(host: Host) -> str:
    """
    Return the cloud-config of an instance with Amazon Linux 2023.

    Raises:
        ConfigurationError: if it is larger than EC2 takes.
    """
    document = {
        "packages": ["docker", "cronie", "amazon-ecr-credential-helper"],
        "write_files": [_file(path, text, mode) for path, text, mode in _files(host)],
        "runcmd": _commands(host),
    }
    text = "#cloud-config\n" + str(yaml.safe_dump(document, sort_keys=False, width=160))
    if len(text.encode()) > MAX_USER_DATA_BYTES:
        raise ConfigurationError(
            f"user data: expected at most {MAX_USER_DATA_BYTES} bytes, found {len(text.encode())}"
        )
    return text


def _files(host: Host) -> list[tuple[str, str, str]]:
    return [
        ("/etc/esclusa/environment", _lines(host.environment), "0644"),
        ("/etc/esclusa/aws.config", _aws_config(host), "0644"),
        (f"{_DOCKER_CONFIG}/config.json", f'{{"credHelpers": {{"{host.registry}": "ecr-login"}}}}\n', "0644"),
        *(
            (f"/etc/esclusa/services/{service}", _service(host, service), "0644")
            for service in SERVICES
            if host.counts.get(service)
        ),
        ("/etc/systemd/system/esclusa@.service", _unit(host), "0644"),
        ("/usr/local/bin/esclusa-service", _RUN_SERVICE, "0755"),
        ("/usr/local/bin/esclusa", _command(host), "0755"),
    ]


def _file(path: str, text: str, mode: str) -> dict[str, Any]:
    return {"path": path, "permissions": mode, "content": text}


def _lines(variables: Mapping[str, str]) -> str:
    return "".join(f"{name}={value}\n" for name, value in variables.items())


def _aws_config(host: Host) -> str:
    """
    Return a profile for each role, taken with the credentials of the instance.

    Source: AWS SDKs and Tools Reference Guide, "Assume role credential provider", credential_source.
    """
    return "\n".join(
        f"[profile {role}]\nrole_arn = {arn}\ncredential_source = Ec2InstanceMetadata\nregion = {host.region}\n"
        for role, arn in host.role_arns.items()
    )


def _service(host: Host, service: str) -> str:
    role, image, options = SERVICES[service]
    values = {
        "IMAGE": f"{host.registry}/{image}:{host.tag}",
        "ROLE": role,
        "OPTIONS": options,
        "FIRST_METRICS_PORT": str(_first_metrics_port(host, service)),
    }
    return _lines({name: shlex.quote(value) for name, value in values.items()})


def _first_metrics_port(host: Host, service: str | None = None) -> int:
    """
    Return the port of a service's first worker: on the host's network each needs one of its own. 0: no metrics.

    Without a service: the port after all of them, of the command.
    """
    default = MetricsSettings.model_fields["metrics_port"].default
    first = int(host.environment.get("ESCLUSA_METRICS_PORT", default))
    last = first + sum(host.counts.values())
    if last > MAX_PORT:
        raise ConfigurationError(
            f"ESCLUSA_METRICS_PORT: expected at most {MAX_PORT - last + first}, for each worker of the instance needs a port "
            f"of its own and the command one more; found {first}"
        )
    services = list(SERVICES)
    before = services[: services.index(service)] if service else services
    return first and first + sum(host.counts.get(other, 0) for other in before)


# Cron and systemd give their programs no home to look for it.
_DOCKER_CONFIG: Final = "/etc/esclusa/docker"


def _stop_seconds(host: Host) -> int:
    """Return more than a soft shutdown, a receive and ten seconds, as the workers are set."""
    times = ("soft_shutdown_seconds", "wait_time_seconds")
    defaults = {f"ESCLUSA_{name.upper()}": WorkerSettings.model_fields[name].default for name in times}
    return sum(int(host.environment.get(name, default)) for name, default in defaults.items()) + 20


def _unit(host: Host) -> str:
    stop_seconds = _stop_seconds(host)
    return f"""\
[Unit]
Description=Esclusa %i
After=docker.service network-online.target
Wants=network-online.target
Requires=docker.service

[Service]
ExecStartPre=-/usr/bin/docker rm --force esclusa-%i
ExecStart=/usr/local/bin/esclusa-service %i
ExecStop=/usr/bin/docker stop --time {stop_seconds} esclusa-%i
TimeoutStopSec={stop_seconds + 10}
Restart=always
RestartSec=5

[Install]
WantedBy=multi-user.target
"""


_HARDENED: Final = (
    "--network host --read-only --cap-drop ALL --security-opt no-new-privileges --pids-limit 256"
)
_SETTINGS: Final = (
    "--env-file /etc/esclusa/environment --env AWS_CONFIG_FILE=/etc/esclusa/aws.config "
    "--volume /etc/esclusa:/etc/esclusa:ro"
)

_RUN_SERVICE: Final = f"""\
#!/bin/sh
# extractor-2 is the second extractor.
. "/etc/esclusa/services/${{1%-*}}"
export DOCKER_CONFIG={_DOCKER_CONFIG}
# All are on the host's network, so each tells its metrics at a port of its own.
port=0
if [ "$FIRST_METRICS_PORT" -ne 0 ]; then port=$((FIRST_METRICS_PORT + ${{1##*-}} - 1)); fi
# The driver `local` keeps some 100 MB for each container; Docker's own choice would fill the disk.
exec docker run --rm --name "esclusa-$1" --log-driver local {_HARDENED} {_SETTINGS} \\
  --env ESCLUSA_METRICS_PORT="$port" --env AWS_PROFILE="$ROLE" $OPTIONS "$IMAGE"
"""


def _command(host: Host) -> str:
    """Return the command `esclusa` of the host: a container in the role that its first word needs."""
    cases = "\n".join(f"  {word}) role={role} ;;" for word, role in _ROLES_OF_COMMANDS.items())
    return f"""\
#!/bin/sh
# ESCLUSA_ROLE names another role: esclusa doctor --role processor is to be run as one.
case "${{1:-}}" in
{cases}
  *) role={PLANNER} ;;
esac
export DOCKER_CONFIG={_DOCKER_CONFIG}
exec docker run --rm {_HARDENED} {_SETTINGS} --memory 2g --volume /tmp \\
  --env ESCLUSA_METRICS_PORT={_first_metrics_port(host)} --env AWS_PROFILE="${{ESCLUSA_ROLE:-$role}}" {host.registry}/esclusa-control:{host.tag} "$@"
"""


def _commands(host: Host) -> list[str]:
    units = [
        f"esclusa@{service}-{number}"
        for service in SERVICES
        for number in range(1, host.counts.get(service, 0) + 1)
    ]
    return [
        "systemctl enable --now docker crond",
        f"aws s3 cp --region {host.region} --recursive s3://{host.source_bucket}/sources/ /etc/esclusa/sources/",
        "/usr/local/bin/esclusa crontab --program /usr/local/bin/esclusa --sources /etc/esclusa/sources | crontab -",
        *(f"systemctl enable --now {unit}" for unit in units),
    ]
