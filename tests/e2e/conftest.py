"""One small fleet for all end-to-end tests of a test process."""

from collections.abc import Generator, Iterator
from pathlib import Path

import pytest
from support.fleet import SmallFleet, find_free_block, sample_sources

from local.processes import Home


@pytest.fixture(scope="session")
def whole_fleet(server_directory: Path) -> Iterator[SmallFleet]:
    """A fleet of its own home and ports, with the sample sources."""
    with sample_sources(server_directory / "e2e-sources", every="1s") as sources:
        fleet = SmallFleet(Home(server_directory / "e2e"), find_free_block(), sources)
        try:
            fleet.up()
            yield fleet
        finally:
            fleet.down()


@pytest.fixture
def fleet(whole_fleet: SmallFleet, request: pytest.FixtureRequest) -> Iterator[SmallFleet]:
    """The fleet with all its parts running, and every client of this test reaching it alone."""
    whole_fleet.repair()
    with whole_fleet.environment_set():
        yield whole_fleet
    if request.node.stash.get(HAS_FAILED, False):
        print(whole_fleet.ends_of_logs())
    # The next test's fleet has the sample sources alone, however this one ended.
    whole_fleet.back_to_samples()


HAS_FAILED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember that a test failed, so that its fleet's logs are shown."""
    report = yield
    if report.failed:
        item.stash[HAS_FAILED] = True
    return report
