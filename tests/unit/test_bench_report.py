"""From what workers answer to the report: rounds, figures, targets, and a page that needs nothing else."""

from pathlib import Path
from typing import Any

import pytest

from benchmarks.harness import targets
from benchmarks.harness.report import write_report
from benchmarks.harness.results import figure
from benchmarks.harness.rounds import Measured, interleaved, ratio, spread, swept
from benchmarks.harness.targets import Target, standings
from benchmarks.harness.workers import WorkerFailed

RUN = {
    "started_at": "2026-01-01T00:00:00+00:00",
    "size": "tiny",
    "seed": 7,
    "commit": "abc",
    "machine": {"cpu": "made up", "cores": 2, "memory_gib": 1.0, "system": "Linux", "load_1_min": 0.0},
    "versions": {"python": "3"},
}


class Toy:
    """Answers every query in so many milliseconds; fails from the call `fails_at` on."""

    def __init__(self, name: str, ms: float, asked: list[str], fails_at: int = 10**9) -> None:
        self.name, self.ms, self.asked, self.left = name, ms, asked, fails_at

    def search(self, block: list[int]) -> dict[str, Any]:
        self.left -= 1
        if self.left < 0:
            raise WorkerFailed(f"{self.name} fell over")
        self.asked.append(self.name)
        return {"ms": [self.ms] * len(block), "ids": [[] for _ in block]}


def _measure(*toys: Toy, rounds: int = 2) -> tuple[dict[str, Measured], list[str]]:
    failures: list[str] = []
    workers: Any = {toy.name: toy for toy in toys}
    return interleaved(workers, range(4), rounds, lambda toy, block: toy.search(block), failures, 2), failures  # type: ignore[attr-defined]


def test_rounds_take_turns_at_going_first() -> None:
    """After one warm block each, blocks of two queries alternate, and so does who comes first."""
    asked: list[str] = []
    measured, failures = _measure(Toy("a", 2.0, asked), Toy("b", 1.0, asked))
    assert asked == ["a", "b", *"abba", *"baab"]
    assert not failures
    assert [len(of_round) for of_round in measured["a"].ms] == [4, 4]
    assert measured["a"].positions == [0, 1, 2, 3] * 2
    assert ratio(measured["a"], measured["b"]) == spread([2.0, 2.0])


def test_who_fails_is_left_out_and_told_of() -> None:
    """The others are measured to the end, and no half-measured peer is shown."""
    asked: list[str] = []
    measured, failures = _measure(Toy("a", 2.0, asked), Toy("b", 1.0, asked, fails_at=2))
    assert list(measured) == ["a"]
    assert failures == ["b fell over"]
    assert len(measured["a"].positions) == 8


def test_efforts_take_turns_in_every_round() -> None:
    """Round one goes 10, 40 and round two 40, 10, each after a block that is not measured."""
    asked: list[int] = []

    class Eager(Toy):
        def search(self, block: list[int], effort: int, bound: None) -> dict[str, Any]:  # type: ignore[override]
            asked.append(effort)
            return super().search(block)

    workers: Any = {"a": Eager("a", 1.0, [])}
    found = swept(workers, range(4), 2, {10: ["a"], 40: ["a"]}, [])
    assert asked == [10, 10, 40, 40, 40, 40, 10, 10]
    assert [len(found[effort]["a"].ms) for effort in (10, 40)] == [2, 2]


def test_a_target_says_by_how_much_it_is_missed() -> None:
    """1.21 against at most 1.10 is a tenth too much; a limit of 0 has no share."""
    target = Target("f", "at most", 1.10, "words")
    assert target.miss(1.10) == 0
    assert target.miss(1.21) == pytest.approx(0.1)
    assert Target("f", "at least", 2.0, "words").miss(1.5) == pytest.approx(0.25)
    assert Target("f", "at most", 0, "words").miss(3) == float("inf")


def test_every_target_stands_in_the_report_measured_or_not() -> None:
    """A target with two figures stands there twice, one with none once."""
    name = targets.TARGETS[0].figure
    found = standings([figure(name, 1.0, "here"), figure(name, 9.0, "there")])
    assert [one.verdict for one in found[:2]] == ["met", "missed"]
    assert {one.verdict for one in found[2:]} == {"not measured"}
    assert len(found) == len(targets.TARGETS) + 1


def test_the_report_needs_no_other_file(tmp_path: Path) -> None:
    """Tables, verdicts and plots stand in one page, whatever was measured; what failed stands there, too."""
    three = spread([1.0, 2.0, 3.0])
    times = {"p50_ms": three, "p99_ms": three, "queries_per_s": three, "recall": 0.97, "short_answers": 0}
    results = [
        {"what": "search", "where": "a <set>", "peer": peer, "effort": effort, "run": RUN, **times}
        for peer in ("ragstone", "raw_tuned")
        for effort in (10, 40)
    ]
    results.append(figure(targets.TARGETS[0].figure, 1.4, "a <set>") | {"run": RUN})
    results.append({"what": "failure", "part": "search", "why": "txtai fell over", "run": RUN})
    page = write_report(results, tmp_path / "run").read_text(encoding="utf-8")
    assert "missed" in page
    assert "27.3%" in page
    assert "txtai fell over" in page
    assert "a &lt;set&gt;" in page
    assert "data:image/png;base64," in page
    assert 'src="http' not in page
    assert len(list(tmp_path.glob("*.png"))) == 1


def test_nothing_measured_still_makes_a_report(tmp_path: Path) -> None:
    """A run that broke off at once says that nothing is measured."""
    page = write_report([], tmp_path / "run").read_text(encoding="utf-8")
    assert "not measured" in page
