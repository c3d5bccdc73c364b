"""
Every statement that the publisher sends to Redshift, for a table of every type and with awkward names.

`PYTHONPATH=.:tests python -m support.redshift_sql` writes them to tests/unit/redshift_sql/, where a change of one is seen.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from support.publish_batches import NOON, column, contract_of

from services.publisher.redshift import definitions, statements
from services.publisher.redshift.definitions import Grant
from services.publisher.redshift.loading import Plan, in_turn, load_statements, prune_statements
from services.publisher.redshift.plan import Statement
from services.publisher.redshift.target import Target, target_of_load
from services.publisher.warehouse import NativeLoad, Rebuild
from shared.domain.contracts import MaskKind, PublishMode, TableContract, keys_of
from shared.domain.files import Area, DataFile, FileFormat, Location
from shared.domain.windows import Extent, Window
from shared.measures import ColumnMeasure

FOLDER = Path(__file__).resolve().parent.parent / "unit" / "redshift_sql"
ROLE = "arn:aws:iam::123456789012:role/esclusa-copy"
MANIFEST = "s3://esclusa-shop/tmp/orders/b000000000000000000000001/m1/files-00000.manifest"

FILE = DataFile(
    location=Location(
        "esclusa-shop", "final/orders/day=2026-11-22/batch=b000000000000000000000001/a1/part-00000.parquet"
    ),
    area=Area.FINAL,
    format=FileFormat.PARQUET,
    batch_id="b000000000000000000000001",
    attempt=1,
    part=0,
    record_count=3,
    file_size_in_bytes=918,
    sha256="0" * 64,
)

_TEXT, _MOMENT = (
    ColumnMeasure(1, size_in_bytes=70, longest_in_bytes=40),
    ColumnMeasure(0, earliest="2026-11-22 12:00:00.000000", latest="2026-11-22 12:14:59.999999"),
)
#: A column of each type, with what could be measured of it.
EVERY_TYPE = {
    column("id", "int64"): ColumnMeasure(0, total=-6),
    column("Code"): ColumnMeasure(0, size_in_bytes=9, longest_in_bytes=5),
    column("small", "int16"): ColumnMeasure(1, total=6),
    column("whole", "int32"): ColumnMeasure(1, total=6),
    column("is_paid", "boolean"): ColumnMeasure(1, total=2),
    column("ratio", "float32"): ColumnMeasure(2),
    column("rate", "float64"): ColumnMeasure(2),
    column("amount", "decimal(12,2)"): ColumnMeasure(0, total=-1234567),
    column("huge", "decimal(38,10)"): ColumnMeasure(0),
    column("day", "date"): ColumnMeasure(0, earliest="0001-01-01", latest="9999-12-31"),
    column("local", "timestamp"): _MOMENT,
    column("changed", "timestamptz"): _MOMENT,
    column("doc", "json"): _TEXT,
    column("photo", "binary"): _TEXT,
    column("email", mask=MaskKind.HMAC): _TEXT,
    column('we"ird; DROP TABLE x --'): _TEXT,
    column("select"): ColumnMeasure(3, size_in_bytes=0, longest_in_bytes=0),
    column("it's 100% naïve ☃"): _TEXT,
}


def contract(mode: PublishMode = PublishMode.MERGE, **more: object) -> TableContract:
    """Return a contract with a column of each type."""
    key = () if mode is PublishMode.APPEND else ("id", "Code")
    return contract_of(*EVERY_TYPE, mode=mode, key=key, **more)  # type: ignore[arg-type]


def load_of(of: TableContract) -> NativeLoad:
    """Return the load of a batch of three rows."""
    return NativeLoad(
        batch_id="b000000000000000000000001",
        slot="2026-11-22T12:15:00.000000Z",
        window=Window(NOON, NOON.replace(minute=15)),
        as_of=NOON.replace(minute=15),
        contract=of,
        contract_version=3,
        attempt=1,
        files=(FILE,),
        same_key_versions=(2, 3),
    )


def plan_of(of: TableContract) -> Plan:
    """Return the plan of a load."""
    load = load_of(of)
    measures = [EVERY_TYPE[column] for column in of.output_columns]
    target = target_of_load(load, measures)
    return Plan(load, target, measures, turn=7, manifest=MANIFEST, role_arn=ROLE, carried=['"former"'])


def everything() -> Mapping[str, Sequence[Statement]]:
    """Return every transaction, and every statement that runs alone, by what it is for."""
    merge = contract()
    plan = plan_of(merge)
    target, load = plan.target, plan.load
    append = replace(plan_of(contract(PublishMode.APPEND)), is_replay=True)
    keys = replace(keys_of(merge), deletes=merge.deletes)
    shop_view = [
        Grant("SELECT", "IAM:Anna", "user", False),
        Grant("SELECT", "bert", "user", True),
        Grant("select", "analysts", "group", False),
        Grant("SELECT", "readers", "role", False),
        Grant("SELECT", "public", "public", False),
    ]
    soft = contract(deleted_at="changed", cursor=None)
    spread = replace(merge, publishing=replace(merge.publishing, sort_key=("day", "id"), dist_key="id"))
    return {
        "append": load_statements(append),
        "merge": load_statements(plan),
        "replace": load_statements(plan_of(contract(PublishMode.REPLACE, cursor=None))),
        "merge_without_rows": load_statements(replace(plan, manifest="")),
        "prune": prune_statements(plan_of(keys), has_keys=True),
        "prune_of_a_table_that_is_not_there": prune_statements(plan_of(keys), has_keys=False),
        "house": definitions.create_house(target, analysts_role="analysts"),
        "base": [
            definitions.create_base(target),
            definitions.create_base(plan_of(spread).target),
            definitions.add_column(target, target.table_columns[1]),
            definitions.widen_column(target, target.table_columns[1]),
            definitions.comment_table(target),
            *(
                definitions.comment_column(target, one.quoted, comment)
                for one, comment in zip(target.columns, target.comments, strict=True)
                if comment
            ),
        ],
        "view": in_turn(target, 8, definitions.show_view(target, shop_view), takes_it=False),
        "view_with_soft_deletes": in_turn(
            target, 8, definitions.show_view(plan_of(soft).target, []), takes_it=False
        ),
        "questions": [
            definitions.find_house(target),
            definitions.find_columns(target.base_names),
            definitions.find_relation(target.view_names),
            definitions.find_grants(target.view_names),
            definitions.find_state(target, load, prune_mode=statements.PRUNE_MODE),
            definitions.find_rebuild(target, "r1"),
            definitions.count_view("shop", "orders"),
            definitions.read_base(merge, load.window, None),
            definitions.read_base(soft, None, None),
            definitions.read_base(contract(cursor="day"), load.window, None),
            definitions.read_base(contract(cursor="id"), None, Extent("id", "2", "9")),
        ],
        "rebuild": _rebuild(target, load),
        "lake": [
            definitions.create_lake_schema("shop", database="esclusa_shop", role_arn=ROLE, region="eu-west-1")
        ],
    }


def _rebuild(target: Target, load: NativeLoad) -> list[Statement]:
    scratch = replace(
        target,
        base=f'{target.base_schema}."_esclusa_rebuild_1"',
        loads=f'{target.base_schema}."_esclusa_rebuild_1_loads"',
        turn=f'{target.base_schema}."_esclusa_rebuild_1_turn"',
    )
    return [
        *definitions.create_scratch(target, scratch),
        *in_turn(
            target,
            7,
            [
                statements.delete_all(target),
                definitions.insert_scratch(target, scratch, ['"id"', '"code"']),
                definitions.delete_markers(target, [load.batch_id]),
                definitions.insert_scratch_markers(target, scratch),
                definitions.save_rebuild(target, Rebuild("r1", (load,)), turn=7),
            ],
        ),
    ]


def as_file(sent: Sequence[Statement]) -> str:
    """Return statements as a file: the name of each, and its text."""
    return "".join(f"-- {statement.name}\n{statement.sql};\n\n" for statement in sent)


def main() -> None:
    """Write every statement."""
    FOLDER.mkdir(exist_ok=True)
    for name, sent in everything().items():
        (FOLDER / f"{name}.sql").write_text(as_file(sent))


if __name__ == "__main__":
    main()
