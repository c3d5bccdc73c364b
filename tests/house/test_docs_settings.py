"""The page about settings is the one that the models make, and no model is left out of it."""

import importlib
import pkgutil
from pathlib import Path

import pytest
from pydantic_settings import BaseSettings

from cli import settings_page

ROOT = Path(__file__).parents[2]


def models_in_the_code() -> set[type[BaseSettings]]:
    """Return every class of settings that a module named `settings` defines."""
    names = [
        module.name
        for package in ("services", "lambdas", "shared", "infra")
        for module in pkgutil.walk_packages([str(ROOT / package)], f"{package}.")
        if module.name.endswith(".settings")
    ]
    modules = [importlib.import_module(name) for name in names]
    return {
        found
        for module in modules
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, BaseSettings) and found.__module__ == module.__name__
    }


def test_the_page_is_up_to_date() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()

    assert page == settings_page.render(), "run: python -m cli.settings_page > docs/settings.md"


def test_every_model_of_settings_is_on_the_page() -> None:
    assert models_in_the_code() == set(settings_page.MODELS)


@pytest.mark.parametrize("model", settings_page.MODELS, ids=lambda model: model.__name__)
def test_every_setting_says_what_it_is(model: type[BaseSettings]) -> None:
    silent = [name for name, field in model.model_fields.items() if not field.description]

    assert not silent


@pytest.mark.parametrize("variable", settings_page.LOCAL_VARIABLES, ids=lambda variable: variable.name)
def test_the_code_reads_every_variable_of_the_keyboard(variable: settings_page.LocalVariable) -> None:
    readers = [
        file
        for package in ("cli", "local")
        for file in (ROOT / package).glob("**/*.py")
        if file.name != "settings_page.py" and f'"{variable.name}"' in file.read_text()
    ]

    assert readers
