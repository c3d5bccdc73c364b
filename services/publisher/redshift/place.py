"""Which database of Redshift is spoken to."""

from dataclasses import dataclass

from shared.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Place:
    """Which database, and as whom. A role or a secret; no password ever passes through us."""

    database: str
    #: Either a workgroup (Serverless) or a cluster.
    workgroup: str = ""
    cluster: str = ""
    #: With a secret, its user; with a cluster and no secret, this one; else the one that IAM's identity is mapped to.
    secret_arn: str = ""
    db_user: str = ""

    def __post_init__(self) -> None:
        if bool(self.workgroup) == bool(self.cluster):
            raise ConfigurationError("Redshift: expected a workgroup or a cluster, found both or neither")
        if not self.database:
            raise ConfigurationError("Redshift: expected the name of a database, found none")
        if self.db_user and (self.workgroup or self.secret_arn):
            raise ConfigurationError("Redshift: a database user is for a cluster without a secret")

    @property
    def arguments(self) -> dict[str, str]:
        """How each call names it."""
        named = {
            "Database": self.database,
            "WorkgroupName": self.workgroup,
            "ClusterIdentifier": self.cluster,
            "SecretArn": self.secret_arn,
            "DbUser": self.db_user,
        }
        return {name: value for name, value in named.items() if value}

    def __str__(self) -> str:
        return f"Redshift {self.workgroup or self.cluster}/{self.database}"
