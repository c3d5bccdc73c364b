"""What the failure of a guard means to a batch, and when looking anew helps."""

from services.publisher.redshift.errors import (
    StatementFailed,
    is_conflict,
    is_from_outside,
    translated,
)
from services.publisher.redshift.plan import Guard
from services.publisher.redshift.target import SCRATCH_PREFIX, Target
from services.publisher.warehouse import NativeLoad, refuse_burst, target_of
from shared.domain.reasons import Reason
from shared.errors import EsclusaError, Refused


def is_others_doing(error: StatementFailed) -> bool:
    """
    Whether somebody else was at the table, so that looking anew helps.

    What a state is put together in goes with the first who is done at it: the others miss it.
    """
    return (
        error.statement.guard is Guard.TURN
        or is_conflict(error)
        or ("does not exist" in error.text and SCRATCH_PREFIX in error.text + error.statement.sql)
        or ("already exists" in error.text and not error.statement.touches_rows)
        or ("duplicate key" in error.text and not error.statement.touches_rows)
    )


def refusal_of(error: StatementFailed, load: NativeLoad, target: Target) -> EsclusaError:
    """Return what the failure of a guard means, or of anything else. What a guard could not be asked for is none."""
    if is_from_outside(error):
        return translated(error, where=target.name)
    match error.statement.guard:
        case Guard.PROOF:
            return Refused(Reason.PROOF_FAILED, f"{target.name}: {_difference(error, load, target)}")
        case Guard.MISSING:
            what = "keys of the batch are missing after the merge, or there twice"
            return Refused(Reason.PROOF_FAILED, f"{target.name}: {what}")
        case Guard.SNAPSHOT:
            return Refused(Reason.PROOF_FAILED, f"{target.name}: the table has not the rows of the snapshot")
        case Guard.DOUBLES:
            return Refused(
                Reason.TARGET_INCOMPATIBLE,
                f"{target.name}: its base table {target.base} has rows with one key, which a merge cannot tell apart; "
                "delete the doubles, then replay the batch",
            )
        case Guard.BURST:
            return _burst(error, load)
    return translated(error, where=target.name)


def _difference(error: StatementFailed, load: NativeLoad, target: Target) -> str:
    """Say in what the staged rows differ from the files, never by a value."""
    found = error.found
    if found is None:
        return "the rows staged are not those of its files"
    if found.what == "rows":
        return f"staged rows: expected {load.record_count}, found {found.numbers[0]}"
    name = target.columns[found.numbers[0] - 1].name
    return f"column {name!r}: the {_MEASURES.get(found.what, found.what)} of the rows staged is not that of its files"


_MEASURES = {
    "nulls": "number of NULLs",
    "bytes": "length of all values",
    "total": "sum",
    "latest": "maximum",
} | {"earliest": "minimum"}


def _burst(error: StatementFailed, load: NativeLoad) -> EsclusaError:
    numbers = error.found.numbers if error.found else ()
    deleted, total = numbers if len(numbers) == 2 else (load.contract.deletes.max_rows + 1, 0)
    try:
        refuse_burst(load, deleted=deleted, total=total)
    except Refused as refusal:
        return refusal
    return translated(error, where=target_of(load))
