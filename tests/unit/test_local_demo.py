"""The demo, as far as it goes without a fleet: what it moves and proves, and how it ends when it cannot."""

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console

from local import demo
from local.proof import Comparison
from shared.catalog import load_sources
from shared.errors import ConfigurationError

SAMPLES = Path(__file__).parents[2] / "sources"

MINE = """\
name: mine
kind: postgres
connection: {dsn: "env:MY_DSN"}
tables:
  orders:
    relation: public.orders
    key: [id]
    cursor: none
    publish: {mode: replace, target: both}
    columns:
      id: {type: int64, mask: keep, nullable: false}
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    for file in SAMPLES.glob("*.yaml"):
        (tmp_path / file.name).write_text(file.read_text())
    return tmp_path


def fail_with(error: BaseException) -> Callable[..., int]:
    def run_demo(*_: object, **__: object) -> int:
        raise error

    return run_demo


def test_the_demo_neither_waits_for_nor_judges_sources_that_somebody_added(sources: Path) -> None:
    (sources / "mine.yaml").write_text(MINE)

    samples = demo.sample_sources(load_sources(sources))

    assert [sample.name for sample in samples] == ["crm", "shop"]


def test_a_demo_without_its_samples_says_which_is_missing(sources: Path) -> None:
    (sources / "crm.yaml").unlink()

    with pytest.raises(ConfigurationError, match="found 'crm'"):
        demo.sample_sources(load_sources(sources))


def test_the_proof_is_read_whole_on_a_terminal_of_80_columns(sources: Path) -> None:
    summaries = [
        demo.TableSummary(contract, (), Comparison(400_000, 399_999, 1, 0), seconds=32.0)
        for source in demo.sample_sources(load_sources(sources))
        for contract in source.contracts()
    ]
    console = Console(width=80, file=io.StringIO())

    with console.capture() as captured:
        console.print(demo.summary_table(summaries))

    shown = captured.get()
    assert "…" not in shown
    assert shown.count("400,000") == shown.count("399,999") == shown.count("differs") == len(summaries)
    assert all(summary.contract.table in shown for summary in summaries)
    assert "rows in Parquet" in shown


def test_an_interrupted_demo_says_that_the_fleet_runs_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(demo, "run_demo", fail_with(KeyboardInterrupt()))

    assert demo.main([]) == 130
    assert "make down" in capsys.readouterr().out


def test_an_error_is_shown_as_it_is_whatever_brackets_it_has(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        demo, "run_demo", fail_with(ConfigurationError("tables.orders.key[id], [/red], [bold]"))
    )

    assert demo.main([]) == 2
    assert "tables.orders.key[id], [/red], [bold]" in capsys.readouterr().out
