"""What runs in the containers of the local stack, without containers."""

import re
from pathlib import Path

import pytest

from local.containers import CRM_CERTIFICATE, SECRET_FILES, addresses, main, make_secrets
from shared.errors import ConfigurationError


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    for name in {Path(file).parent.name for file in SECRET_FILES}:
        (tmp_path / name).mkdir()
    return tmp_path


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()
    }


def test_secrets_are_made_once(directory: Path) -> None:
    make_secrets(directory, authorities=directory / "authorities.pem")
    made = contents(directory)
    make_secrets(directory, authorities=directory / "authorities.pem")

    assert set(made) == {*SECRET_FILES, CRM_CERTIFICATE, "authorities.pem"}
    assert len({made[name] for name in SECRET_FILES}) == len(SECRET_FILES)
    assert contents(directory) == made


def test_a_secret_that_was_lost_is_made_anew_and_no_other(directory: Path) -> None:
    make_secrets(directory, authorities=directory / "authorities.pem")
    before = contents(directory)
    (directory / "crm" / "token").unlink()

    make_secrets(directory, authorities=directory / "authorities.pem")

    assert {name for name, content in contents(directory).items() if content != before[name]} == {"crm/token"}


def test_everything_is_reached_by_the_names_of_its_services(directory: Path) -> None:
    make_secrets(directory, authorities=directory / "authorities.pem")

    found = addresses(directory)

    assert re.fullmatch(
        r"postgresql://esclusa:[0-9a-f]{48}@control-db:5432/esclusa_control", found.control_dsn
    )
    assert re.fullmatch(r"postgresql://shop_reader:[0-9a-f]{48}@shop-db:5432/shop", found.shop_reader_dsn)
    assert found.crm_url == "https://crm:8443"
    assert found.crm_token not in repr(found)


def test_a_volume_that_is_not_mounted_is_named(directory: Path) -> None:
    with pytest.raises(ConfigurationError, match="control/password: expected a secret, found: No such file"):
        addresses(directory)


def test_what_is_wrong_ends_with_a_code_and_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["provision"]) == 2
    assert "its volume has to be mounted" in capsys.readouterr().err
