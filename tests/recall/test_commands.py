"""`ragstone recall`, as an operator has it."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest

from backends.corpus.observations import Measured, record_measured
from ops import recall
from ops.cli.app import run
from tests.recall.asking import Asked, embeddings

Command = Callable[..., tuple[int, str]]


@pytest.fixture
def command(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    """Runs `ragstone recall ...` and gives its exit status and what it printed."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("RAGSTONE_INDEX_MIN_CHUNKS", "100")
    monkeypatch.setenv("RAGSTONE_EMBEDDING_MODEL", "hashing")

    def runs(*words: str) -> tuple[int, str]:
        status = run(["--data", url, "recall", *words])
        printed = capsys.readouterr()
        return status, printed.out or printed.err

    return runs


@pytest.fixture
def captured(indexed: Asked) -> Asked:
    indexed.forget()
    indexed.captured_all(embeddings(100, seed=2))
    return indexed


def test_measure_on_what_was_asked(captured: Asked, command: Command) -> None:
    """It tells of each band, in JSON and as a table, and is content where the target is reached."""
    status, printed = command("measure", captured.name, "--json")
    (band,) = json.loads(printed)["bands"]
    assert status == 0
    assert (band["backend"], band["band"], band["drawn"], band["below_target"]) == ("pgvector", "all", 0, False)
    assert band["recall"]["queries"] == 100
    assert 0.95 < band["recall"]["mean"] < 1
    assert band["recall"]["low"] < band["recall"]["mean"] < band["recall"]["high"]
    assert 1 < band["distance_ratio"] < 1.01
    status, printed = command("measure", captured.name, "--queries", "50")
    assert status == 0
    assert f"{'pgvector'}  all" in printed
    assert "drawn" not in printed


def test_measure_below_the_target_is_a_finding(
    captured: Asked, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With an effort of 10 HNSW misses a quarter: exit status 1; it says which band and what was the target."""
    monkeypatch.setenv("RAGSTONE_EF_SEARCH", "10")
    status, printed = command("measure", captured.name)
    assert status == 1
    assert "all: below the target of 0.95" in printed


def test_measure_on_drawn_queries(captured: Asked, command: Command) -> None:
    """Drawn queries are taken where that is asked for, or nothing was captured, and it says so."""
    status, printed = command("measure", captured.name, "--drawn", "--queries", "40")
    assert status == 0
    assert "40 of the queries are drawn" in printed
    captured.forget()
    assert "30 of the queries are drawn" in command("measure", captured.name, "--queries", "30")[1]


def test_measure_with_a_filter(captured: Asked, command: Command) -> None:
    """All are asked with this filter: they are in its band, and answered exactly where little matches."""
    status, printed = command("measure", captured.name, "--filter", '{"n": {"$lt": 60}}', "--json")
    (band,) = json.loads(printed)["bands"]
    assert (status, band["band"], band["exact"], band["recall"]["mean"]) == (0, "1%", 100, 1)


def test_history_shows_what_was_measured(captured: Asked, command: Command) -> None:
    """Each period is a line; before anything was measured it says how that comes about."""
    assert "while `ragstone serve` answers" in command("history", captured.name)[1]
    one = captured.kept()[0]
    record_measured(captured.rag.database, one, Measured(recall=0.5, distance_ratio=1.2, band="all"), datetime.now(UTC))
    status, printed = command("history", captured.name, "--since", "2h")
    assert status == 0
    assert f"{datetime.now(UTC):%Y-%m-%d %H:00}" in printed
    (period,) = json.loads(command("history", captured.name, "--json")[1])["periods"]
    assert (period["band"], period["recall"]["mean"], period["distance_ratio"]) == ("all", 0.5, 1.2)


def test_tune_says_what_it_did_and_what_that_costs(captured: Asked, command: Command) -> None:
    """The ladder, the effort that was found, its cost on the median; set unless it is only tried."""
    words = ("tune", captured.name, "--target", "0.8")
    status, printed = command(*words, "--dry-run")
    assert status == 0
    assert "ef_search" in printed
    assert "fits:" in printed
    assert "now: default" in printed
    assert captured.state.efforts == {}
    status, printed = command(*words, "--json")
    (band,) = json.loads(printed)["bands"]
    assert (status, band["applied"], band["problem"]) == (0, True, None)
    assert captured.state.efforts == {"pgvector": {"all": band["effort"]}}
    assert (band["queries"], band["drawn"]) == (75, 0)
    captured.forget()


def test_a_target_that_is_not_reached_is_a_finding(captured: Asked, command: Command) -> None:
    """Exit status 1, and the reason."""
    status, printed = command("tune", captured.name, "--target", "0.9999", "--queries", "60")
    assert status == 1
    assert "too few to show a recall of 0.9999" in printed


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (("history", "indexed", "--since", "soon"), "--since: found 'soon'; needed a number and m, h or d"),
        (("tune", "indexed", "--target", "1"), "target: found 1; needed more than 0 and less than 1"),
        (("measure", "nowhere"), "there is no collection 'nowhere'"),
        (("measure", "indexed", "--filter", "{"), "filter: not JSON"),
    ],
)
def test_wrong_use_is_told(indexed: Asked, command: Command, words: tuple[str, ...], problem: str) -> None:
    """Exit status 2, and what is needed."""
    status, printed = command(*words)
    assert status == 2
    assert problem in printed


def test_an_empty_collection_has_no_recall(asked: Asked, command: Command) -> None:
    """There is nothing to measure, and nothing to tune."""
    assert command("measure", asked.name) == (
        2,
        f"ragstone: collection '{asked.name}' is empty: there is no recall to measure\n",
    )
    status, printed = command("tune", asked.name)
    assert status == 2
    assert "too little to search" in printed


def test_one_query_that_takes_too_long_is_left_out(captured: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    """The others are measured, and it is told how many were not."""
    from backends.errors import FilterTooExpensive
    from ops.recall.truth import Examiner

    find = Examiner.truth
    calls: list[Any] = []

    def sometimes(self: Examiner, question: Any) -> Any:
        calls.append(question)
        if len(calls) % 10 == 0:
            raise FilterTooExpensive("too long")
        return find(self, question)

    monkeypatch.setattr(Examiner, "truth", sometimes)
    found = recall.measure_now(captured.rag, captured.name, 30)
    assert (found.left_out, found.bands[0].recall.queries) == (3, 27)
