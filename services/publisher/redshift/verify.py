"""
Asks a real workgroup or cluster what could not be known without one, and tries the publisher's own way in it.

Everything is made in two schemas and under object keys of its own, and taken away again, whatever happens. Each question
names the row of the table in docs/redshift.md that it belongs to. What differs is told, with what depends on it.
"""

import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from services.publisher.redshift.data_api import DataApi
from services.publisher.redshift.doctor import Bucket, Finding, Verdict, examine
from services.publisher.redshift.errors import StatementFailed
from services.publisher.redshift.load import Access
from services.publisher.redshift.names import quote_identifier, quote_text
from services.publisher.redshift.plan import Guard, Statement, Wrong, guard_sql
from services.publisher.redshift.trial import Trial
from services.publisher.redshift.warehouse import RedshiftWarehouse
from services.publisher.warehouse import BASE_SUFFIX
from shared.domain.contracts import PublishMode
from shared.domain.files import Location
from shared.errors import EsclusaError
from shared.ports import ObjectStore

log = structlog.get_logger()


class Broken(EsclusaError):
    """What was expected did not hold. The message says what was found."""


@dataclass(frozen=True, slots=True)
class Question:
    """One thing that could not be known without a Redshift."""

    #: The row in docs/redshift.md.
    rule: str
    what: str
    #: Returns what was found, if it is as expected; raises Broken otherwise.
    ask: "Callable[[Scene], str]"


@dataclass(slots=True)
class Scene:
    """What the questions are asked with. `api` and `store` are real; all names begin with one that is ours alone."""

    api: DataApi
    store: ObjectStore
    bucket: Bucket
    role_arn: str
    #: Names the schemas.
    name: str = field(default_factory=lambda: f"esclusa_verify_{uuid.uuid4().hex[:12]}")
    trial: Trial = field(init=False)

    def __post_init__(self) -> None:
        warehouse = RedshiftWarehouse(Access(self.api, self.store, self.role_arn))
        self.trial = Trial(warehouse, self.store, bucket=self.bucket.name, source=self.name)

    @property
    def schema(self) -> str:
        """The schema of tables that belong to no load, quoted."""
        return quote_identifier(self.name)

    def one(self, sql: str) -> object:
        """Return the one value of an answer, to a statement that our own rules need not like."""
        rows = self.api.rows(_as_written(sql))
        if len(rows) != 1 or len(rows[0]) != 1:
            raise Broken(f"expected one value, found {len(rows)} rows")
        return rows[0][0]

    def run(self, sql: str) -> None:
        """Run a statement alone, as it is written."""
        self.api.run(_as_written(sql))

    def fails_together(self, *sqls: str) -> StatementFailed:
        """Return how a transaction fails that is to fail."""
        try:
            self.api.transact([_as_written(sql) for sql in sqls])
        except StatementFailed as error:
            return error
        raise Broken("it was accepted")

    def copy_fails(self, manifest: Location) -> StatementFailed:
        """Return how COPY of a list of files fails that is to fail."""
        return self.fails_together(
            'CREATE TEMPORARY TABLE "copied" ("id" BIGINT)',
            f'COPY "copied" ("id") FROM {quote_text(str(manifest))} IAM_ROLE {quote_text(self.role_arn)} '
            "FORMAT AS PARQUET MANIFEST",
        )


def _as_written(sql: str) -> Statement:
    return Statement("verify", sql, touches_rows=False, is_a_persons=True)


def verify(scene: Scene) -> Iterator[Finding]:
    """
    Ask everything, one after the other, and clean up in the end.

    Raises:
        ConfigurationError: if the database, or a right without which nothing can be asked, is not there.
        Unavailable: if it does not answer.
    """
    scene.run(f"CREATE SCHEMA {scene.schema}")
    try:
        yield from examine(scene.api, scene.bucket)
        for question in QUESTIONS:
            yield _asked(question, scene)
    finally:
        _clean_up(scene)


def _asked(question: Question, scene: Scene) -> Finding:
    try:
        return Finding(question.rule, question.what, Verdict.HELD, question.ask(scene))
    except EsclusaError as error:
        # It may have been the question that failed, or the database that is away: then this raises.
        scene.one("SELECT 1")
        return Finding(question.rule, question.what, Verdict.BROKEN, str(error))


def _clean_up(scene: Scene) -> None:
    for schema in (scene.name, scene.name + BASE_SUFFIX):
        try:
            scene.run(f"DROP SCHEMA IF EXISTS {quote_identifier(schema)} CASCADE")
        except EsclusaError as error:
            log.warning("verification_left_a_schema", schema=schema, error=str(error))
    for location in scene.trial.locations:
        try:
            scene.store.delete(location)
        except EsclusaError as error:
            log.warning("verification_left_an_object", location=str(location), error=str(error))


# ---- of the Data API ----------------------------------------------------------------------------------------


def _batch_is_one_transaction(scene: Scene) -> str:
    scene.run(f'CREATE TABLE {scene.schema}."one" ("n" BIGINT)')
    scene.fails_together(f'INSERT INTO {scene.schema}."one" VALUES (1)', "SELECT CAST('x' AS INTEGER)")
    _expect(scene.one(f'SELECT COUNT(*) FROM {scene.schema}."one"'), 0, "rows of a transaction that failed")
    return "what came before the failure is not there"


def _guard_ends_a_transaction(scene: Scene) -> str:
    table = f'{scene.schema}."one"'
    guard = Statement(
        "a guard", guard_sql({"rows": Wrong("COUNT(*) <> 7", ("COUNT(*)",))}, table), guard=Guard.PROOF
    )
    try:
        scene.api.transact([Statement("lock", f"LOCK TABLE {table}", touches_rows=False), guard])
    except StatementFailed as error:
        if error.statement is not guard:
            raise Broken(f"the failure is told of {error.statement.name!r}, not of the guard") from error
        return "told of the guard" + (", with its counts" if error.found else ", without its counts")
    raise Broken("a guard that does not hold let the transaction go on")


def _long_statements_are_taken(scene: Scene) -> str:
    filler = "x" * 60_000
    statements = [_as_written(f"SELECT OCTET_LENGTH('{filler}{number}')") for number in range(3)]
    scene.api.transact(statements)
    return "three statements of 60 KB each in one batch"


# ---- of the SQL ------------------------------------------------------------------------------------------------


def _names_are_folded(scene: Scene) -> str:
    scene.run(f'CREATE TABLE {scene.schema}."MiXed" ("CoL" BIGINT)')
    found = scene.one(f'SELECT COUNT(*) FROM {scene.schema}."mixed"')
    _expect(found, 0, "rows of a table called by its name in small letters")
    return "quoted names are folded to small letters"


def _trailing_blanks_are_equal(scene: Scene) -> str:
    scene.run(f'CREATE TABLE {scene.schema}."blanks" ("a" VARCHAR(8), "b" VARCHAR(8))')
    scene.run(f"INSERT INTO {scene.schema}.\"blanks\" VALUES ('a', 'a ')")
    equal = scene.one(f'SELECT COUNT(*) FROM {scene.schema}."blanks" WHERE "a" = "b"')
    both = f'SELECT COUNT(*) FROM {scene.schema}."blanks" WHERE "a" = "b" AND OCTET_LENGTH("a") = OCTET_LENGTH("b")'
    _expect(scene.one(both), 0, "texts told to be equal by value and length")
    return "'a' = 'a '" if equal else "'a' <> 'a ': comparing lengths is not needed"


def _backslash_is_an_escape(scene: Scene) -> str:
    length = scene.one("SELECT OCTET_LENGTH('a\\\\b')")
    return "it is an escape" if length == 3 else "it is none: none of our literals has one"


def _alter_type_needs_to_be_alone(scene: Scene) -> str:
    scene.run(f'CREATE TABLE {scene.schema}."wide" ("a" VARCHAR(8) ENCODE ZSTD)')
    alter = f'ALTER TABLE {scene.schema}."wide" ALTER COLUMN "a" TYPE VARCHAR(16)'
    scene.fails_together(f'LOCK TABLE {scene.schema}."wide"', alter)
    scene.run(alter)
    return "refused in a transaction, done alone"


def _columns_of_a_late_view_take_no_comment(scene: Scene) -> str:
    scene.run(
        f'CREATE VIEW {scene.schema}."late" AS SELECT "n" FROM {scene.schema}."one" WITH NO SCHEMA BINDING'
    )
    scene.run(f"COMMENT ON VIEW {scene.schema}.\"late\" IS 'of the view'")
    try:
        scene.run(f'COMMENT ON COLUMN {scene.schema}."late"."n" IS \'of the column\'')
    except StatementFailed:
        return "the view takes one, its columns do not"
    return "its columns take comments too: they could be told there"


# ---- of loads, by the publisher's own way ----------------------------------------------------------------------


def _every_type_arrives(scene: Scene) -> str:
    differing = [kind for kind, is_same in scene.trial.every_type() if not is_same]
    if differing:
        raise Broken(f"other values came back than were loaded: {', '.join(differing)}")
    return "loaded from Parquet and read back exactly, a column of each type"


def _modes(mode: PublishMode) -> Callable[[Scene], str]:
    def ask(scene: Scene) -> str:
        told = scene.trial.mode(mode)
        if told:
            raise Broken(told)
        return "loaded, repeated without harm, and followed by an older batch"

    return ask


def _missing_file_fails(scene: Scene) -> str:
    file = scene.trial.file_of_one_row()
    gone = Location(file.location.bucket, file.location.key + ".gone")
    size = file.file_size_in_bytes
    error = scene.copy_fails(scene.trial.manifest([(file.location, size), (gone, size)]))
    return error.text


def _wrong_length_fails(scene: Scene) -> str:
    file = scene.trial.file_of_one_row()
    error = scene.copy_fails(scene.trial.manifest([(file.location, file.file_size_in_bytes - 1)]))
    return error.text


def _longer_values_widen(scene: Scene) -> str:
    told = scene.trial.widened()
    if told:
        raise Broken(told)
    return "a VARCHAR was widened, rows and view stayed"


def _sweeps_delete(scene: Scene) -> str:
    told = scene.trial.swept()
    if told:
        raise Broken(told)
    return "a row whose key is gone was deleted, a repeated sweep deleted nothing"


def _many_columns_are_proven(scene: Scene) -> str:
    told = scene.trial.wide(300)
    if told:
        raise Broken(told)
    return "300 columns of text, proven in pieces"


def _expect(found: object, expected: object, what: str) -> None:
    if found != expected:
        raise Broken(f"{what}: expected {expected}, found {found}")


QUESTIONS = (
    Question("2", "A batch of the Data API is one transaction", _batch_is_one_transaction),
    Question("2", "A guard that fails ends its transaction, and is told", _guard_ends_a_transaction),
    Question("34", "The limit of 100 KB is one of each statement", _long_statements_are_taken),
    Question("33", "Quoted names are folded", _names_are_folded),
    Question("39", "A backslash in a literal", _backslash_is_an_escape),
    Question("40", "Texts that differ in trailing blanks are told apart", _trailing_blanks_are_equal),
    Question("27", "ALTER COLUMN TYPE runs alone only", _alter_type_needs_to_be_alone),
    Question("14", "Comments of a late-binding view", _columns_of_a_late_view_take_no_comment),
    Question("8, 10, 28, 31, 32", "Values of every type arrive as they are", _every_type_arrives),
    *(Question("16, 25, 26", f"Mode {mode}: a load, and again", _modes(mode)) for mode in PublishMode),
    Question("20", "A file that is missing from the bucket fails the load", _missing_file_fails),
    Question("19", "A wrong length in the manifest fails the load", _wrong_length_fails),
    Question("27", "Longer values widen their column", _longer_values_widen),
    Question("24", "A key sweep", _sweeps_delete),
    Question("34", "A table of many columns", _many_columns_are_proven),
)
