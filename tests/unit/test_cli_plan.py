"""The commands that plan work: crontab, and what enqueue does before it asks any source."""

from pathlib import Path

import pytest
from support.commands import Shell

from cli.output import ExitCode
from cli.plan import _schedule

SOURCE = """\
name: {name}
kind: postgres
connection: {{dsn: "env:SHOP_DSN"}}
schedule: {{every: {every}, max_window: 1h, catch_up_limit: 4}}
tables:
  orders:
    relation: public.orders
    key: [id]
    cursor: {{column: updated_at, lag: {lag}, overlap: 1m}}
    publish: {{mode: merge, target: both}}
    columns:
      id: {{type: int64, mask: keep, nullable: false}}
      updated_at: {{type: timestamptz, mask: keep, nullable: false}}
"""


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "my sources %"
    directory.mkdir()
    return directory


def declare(directory: Path, name: str = "shop", *, every: str = "15m", lag: str = "30s") -> None:
    (directory / f"{name}.yaml").write_text(SOURCE.format(name=name, every=every, lag=lag))


# ---- crontab -----------------------------------------------------------------------------------------------


def cron_of(directory: Path) -> dict[str, str]:
    (line,) = Shell().run("crontab", "--sources", str(directory), "--json").document["lines"]
    return line


@pytest.mark.parametrize(
    ("every", "lag", "schedule"),
    [
        ("15m", "0s", "*/15 * * * *"),
        ("15m", "30s", "1-59/15 * * * *"),
        ("15m", "2m", "2-59/15 * * * *"),
        ("15m", "20m", "5-59/15 * * * *"),
        ("1h", "1m", "1 * * * *"),
        ("7m", "0s", "*/7 * * * *"),
        ("90s", "0s", "* * * * *"),
        ("10s", "2s", "* * * * *"),
    ],
)
def test_a_source_is_enqueued_as_often_as_it_is_due_and_behind_its_lag(
    sources: Path, every: str, lag: str, schedule: str
) -> None:
    declare(sources, every=every, lag=lag)

    assert cron_of(sources)["schedule"] == schedule


@pytest.mark.parametrize("minutes", range(1, 61))
def test_no_schedule_pauses_longer_than_it_says(minutes: int) -> None:
    for behind in range(minutes):
        first = _schedule(minutes, behind=behind).split()[0]
        span, _, step = first.partition("/")
        start = 0 if span == "*" else int(span.partition("-")[0])
        fires = [start] if not step and span != "*" else list(range(start, 60, int(step or 1)))

        pauses = [later - earlier for earlier, later in zip(fires, [*fires[1:], fires[0] + 60], strict=True)]

        assert max(pauses) <= minutes


def test_a_source_due_more_often_than_cron_runs_carries_a_remark(sources: Path) -> None:
    declare(sources, every="10s")

    assert "10s" in cron_of(sources)["remark"]
    assert "# shop: due every 10s" in Shell().run("crontab", "--sources", str(sources)).output


def test_a_line_survives_cron_and_shell(sources: Path) -> None:
    declare(sources)

    # cron turns every % without a backslash into the end of the line.
    assert cron_of(sources)["command"].endswith(
        f"enqueue --source shop --sources '{str(sources).replace('%', chr(92) + '%')}'"
    )


def test_a_line_names_the_very_program_that_wrote_it(
    sources: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    declare(sources)
    program = tmp_path / "bin" / "esclusa"
    program.parent.mkdir()
    program.touch()
    monkeypatch.setattr("sys.argv", [str(program), "crontab"])

    assert cron_of(sources)["command"].startswith(f"{program} enqueue ")


def test_a_crontab_of_files_with_mistakes_is_refused(sources: Path) -> None:
    declare(sources)
    declare(sources, "crm", every="tomorrow")

    ended = Shell().run("crontab", "--sources", str(sources))

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "crm.yaml:4: schedule.every" in ended.errors
    assert ended.output == ""


def test_what_was_published_is_counted_each_night_and_compared_an_hour_later(sources: Path) -> None:
    declare(sources)
    shell = Shell()

    document = shell.run("crontab", "--sources", str(sources), "--json").document
    lines = shell.run("crontab", "--sources", str(sources), "--source", "shop").output.splitlines()

    counted, compared = (
        [(line["schedule"], line["command"].partition(" ")[2]) for line in document[name]]
        for name in ("recounts", "proofs")
    )
    assert counted == [("17 2 * * 1-6", "recount --all --last 2d"), ("17 2 * * 0", "recount --all")]
    assert compared == [("17 3 * * 1-6", "prove --all --from 2d"), ("17 3 * * 0", "prove --all")]
    assert [line["schedule"] for line in document["compactions"]] == ["17 5 * * *"]
    assert [line.rpartition("esclusa ")[2] for line in lines[-5:]] == [
        "recount --all --source shop --last 2d",
        "recount --all --source shop",
        "prove --all --source shop --from 2d",
        "prove --all --source shop",
        "compact --all --source shop",
    ]


# ---- enqueue -----------------------------------------------------------------------------------------------


def test_enqueue_without_any_source_file_is_refused(tmp_path: Path) -> None:
    ended = Shell().run("enqueue", "--sources", str(tmp_path / "none"))

    assert ended.exit_code == ExitCode.CONFIGURATION
    assert "a directory of source files" in ended.errors


def test_enqueue_of_an_unknown_source_is_refused_with_the_known_ones(sources: Path) -> None:
    declare(sources)

    ended = Shell().run("enqueue", "--sources", str(sources), "--source", "shp")

    assert ended.exit_code == ExitCode.NOT_FOUND
    assert "did you mean 'shop'" in ended.errors
