"""One small fleet for all end-to-end tests of a test process."""

import shutil
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from support.fleet import SmallFleet, find_free_block

from local.processes import Home

SOURCES = Path(__file__).parents[2] / "sources"


@pytest.fixture(scope="session")
def whole_fleet(server_directory: Path) -> Iterator[SmallFleet]:
    """A fleet of its own home and ports, with the sample sources. Windows are short, so that tests are."""
    sources = server_directory / "e2e-sources"
    sources.mkdir()
    for name in ("shop.yaml", "crm.yaml"):
        text = (SOURCES / name).read_text()
        assert "every: 10s" in text
        (sources / name).write_text(text.replace("every: 10s", "every: 1s").replace("lag: 2s", "lag: 1s"))
    fleet = SmallFleet(Home(server_directory / "e2e"), find_free_block(), sources)
    try:
        fleet.up()
        yield fleet
    finally:
        fleet.down()
        shutil.rmtree(sources)


@pytest.fixture
def fleet(whole_fleet: SmallFleet, request: pytest.FixtureRequest) -> Iterator[SmallFleet]:
    """The fleet with all its parts running, and every client of this test reaching it alone."""
    whole_fleet.repair()
    with whole_fleet.environment_set():
        yield whole_fleet
    if request.node.stash.get(HAS_FAILED, False):
        print(whole_fleet.ends_of_logs())
    whole_fleet.repair()


HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test failed, so that its fleet's logs are shown."""
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    return report
