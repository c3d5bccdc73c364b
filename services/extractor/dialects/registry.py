"""Which dialect speaks for which product."""

from services.extractor.dialects import Dialect, DialectName


def dialect_of(name: DialectName) -> Dialect:
    """Return the dialect of a product."""
    # Deferred: a worker reads few products, and a command that prints help none.
    match name:
        case DialectName.POSTGRESQL:
            from services.extractor.dialects.postgresql import PostgresqlDialect

            return PostgresqlDialect()
        case DialectName.MYSQL:
            from services.extractor.dialects.mysql import MysqlDialect

            return MysqlDialect()
        case DialectName.SQLSERVER:
            from services.extractor.dialects.sqlserver import SqlServerDialect

            return SqlServerDialect()
        case DialectName.ORACLE:
            from services.extractor.dialects.oracle import OracleDialect

            return OracleDialect()
        case DialectName.SQLITE:
            from services.extractor.dialects.sqlite import SqliteDialect

            return SqliteDialect()
