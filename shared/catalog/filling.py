"""Contents into forms: every mistake of a part is reported, and what is sound of it is given back."""

from collections.abc import Mapping
from typing import Any, TypeVar, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from shared.catalog.document import Document
from shared.catalog.forms import Form
from shared.catalog.problems import FieldPath, shown, suggestion

F = TypeVar("F", bound=Form)

#: Values under these keys may be secrets that stand in the wrong place. They are never told.
_SECRET_FIELDS = {"connection", "mask_key", "previous_mask_key"}

_EXPECTED = {
    "missing": "a value",
    "model_type": "a mapping",
    "dict_type": "a mapping",
    "tuple_type": "a list such as [id]",
    "string_type": "a text",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "bool_type": "true or false",
}


def fill(form: type[F], content: object, *, at: FieldPath, document: Document) -> tuple[F, frozenset[str]]:
    """
    Return a filled form and the names of the fields that were wrong.

    Those fields have their defaults or stand-ins, so that the rules can look at the others in the same run;
    they say nothing about a field that was wrong.
    """
    if content is None:
        content = {}
    try:
        return form.model_validate(content), frozenset()
    except ValidationError as invalid:
        errors = invalid.errors(include_url=False)
    for error in errors:
        _report(error, form=form, at=at, document=document)
    mistaken = {str(error["loc"][0]) for error in errors if error["loc"]}
    given = content if isinstance(content, Mapping) else {}
    sound = {name: value for name, value in given.items() if name not in mistaken}
    stand_ins = {name: value for name, value in form.stand_ins.items() if name not in sound}
    wrong = (mistaken | stand_ins.keys()) & form.model_fields.keys()
    return form.model_validate(stand_ins | sound), frozenset(wrong)


def _report(error: ErrorDetails, *, form: type[Form], at: FieldPath, document: Document) -> None:
    path: FieldPath = (*at, *error["loc"])
    if error["type"] == "extra_forbidden":
        known = _known_fields(form, error["loc"][:-1])
        name = str(error["loc"][-1])
        expected = f"one of {', '.join(known)}{suggestion(name, known)}"
        document.report(path, expected=expected, found=f"the unknown key {shown(name)}")
    elif error["type"] == "missing":
        document.report(path, expected="a value", found="nothing")
    else:
        document.report(
            document.written(path) or at, expected=_expected(error), found=_found(error, path=path)
        )


def _expected(error: ErrorDetails) -> str:
    if error["type"] == "mistake":
        return str(error["ctx"]["expected"])
    if error["type"] == "string_pattern_mismatch":
        return f"a text that matches {error['ctx']['pattern']}"
    return _EXPECTED.get(error["type"]) or error["msg"].removeprefix("Input should be ").replace(
        "String should have", "a text of"
    )


def _found(error: ErrorDetails, *, path: FieldPath) -> str:
    told = error.get("ctx", {}).get("found")
    if told:
        return str(told)
    if _SECRET_FIELDS & set(path) and error["input"] is not None:
        return "something else (not shown: a secret must not stand in this file)"
    return shown(error["input"])


def _known_fields(form: type[Form], inside: tuple[str | int, ...]) -> list[str]:
    """The keys that the form at a path inside another takes."""
    for step in inside:
        annotation: Any = form.model_fields[str(step)].annotation
        (form,) = (
            part
            for part in (annotation, *get_args(annotation))
            if isinstance(part, type) and issubclass(part, Form)
        )
    return [*form.model_fields, *form.named_parts]
