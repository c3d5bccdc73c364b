"""Settings of the publisher."""

from enum import StrEnum
from typing import Self

from pydantic import Field, PositiveInt, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from services.publisher.redshift.place import Place


class WarehouseKind(StrEnum):
    """What native tables lie in."""

    POSTGRES = "postgres"
    REDSHIFT = "redshift"


class PublisherSettings(BaseSettings):
    """Where the publisher publishes."""

    model_config = SettingsConfigDict(env_prefix="ESCLUSA_", frozen=True, extra="ignore")

    warehouse: WarehouseKind = Field(
        WarehouseKind.POSTGRES, description="What native tables lie in: `postgres` or `redshift`."
    )
    warehouse_dsn: str = Field(
        "",
        description="PostgreSQL: reference to the warehouse's DSN: env:, file:, secretsmanager: or ssm:.",
    )
    redshift_workgroup: str = Field(
        "", description="Redshift Serverless: the workgroup. Either this or `ESCLUSA_REDSHIFT_CLUSTER`."
    )
    redshift_cluster: str = Field("", description="Redshift: the identifier of the cluster.")
    redshift_database: str = Field("", description="Redshift: the database in which schemas are made.")
    redshift_secret_arn: str = Field(
        "",
        description="Redshift: the secret of the database user, which the Data API reads itself; empty takes the identity "
        "of the publisher's role.",
    )
    redshift_db_user: str = Field(
        "", description="Redshift, of a cluster without a secret: the database user; empty takes the role's."
    )
    redshift_copy_role_arn: str = Field(
        "",
        description="Redshift: the role, attached to the workgroup or cluster, that COPY reads the buckets with.",
    )
    redshift_timeout_seconds: PositiveInt = Field(
        780,
        description="Redshift: a statement or transaction that takes longer is told to end, and tried again.",
    )
    warehouse_analysts_role: str = Field(
        "",
        description="Role of the warehouse that may read every source's tables, also those to come; empty grants "
        "nothing by itself.",
    )

    @property
    def redshift_place(self) -> Place:
        """Which database of Redshift, and as whom."""
        return Place(
            self.redshift_database,
            workgroup=self.redshift_workgroup,
            cluster=self.redshift_cluster,
            secret_arn=self.redshift_secret_arn,
            db_user=self.redshift_db_user,
        )

    @model_validator(mode="after")
    def _name_the_warehouse(self) -> Self:
        if self.warehouse is WarehouseKind.POSTGRES:
            if not self.warehouse_dsn:
                raise ValueError(
                    "ESCLUSA_WAREHOUSE_DSN: expected a reference to the warehouse's DSN, found none; with "
                    "ESCLUSA_WAREHOUSE=redshift it is not needed"
                )
            return self
        if bool(self.redshift_workgroup) == bool(self.redshift_cluster):
            raise ValueError(
                "ESCLUSA_REDSHIFT_WORKGROUP, ESCLUSA_REDSHIFT_CLUSTER: expected one of them, found "
                f"{'both' if self.redshift_workgroup else 'neither'}"
            )
        if self.redshift_db_user and (self.redshift_workgroup or self.redshift_secret_arn):
            raise ValueError("ESCLUSA_REDSHIFT_DB_USER: expected it for a cluster without a secret only")
        missing = [
            f"ESCLUSA_{name.upper()}"
            for name in ("redshift_database", "redshift_copy_role_arn")
            if not getattr(self, name)
        ]
        if missing:
            raise ValueError(f"{', '.join(missing)}: expected with ESCLUSA_WAREHOUSE=redshift, found none")
        return self
