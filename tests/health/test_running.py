"""Looking at everything: whatever becomes of one check, the others are seen."""

import threading
import time
from collections.abc import Iterator

import pytest

from backends.errors import CollectionNotFound
from ops.health import running
from ops.health.check import Check, CheckFunction, Subject, level_above
from ops.health.running import CHECKS, CORPUS_CHECKS, run
from retrieval import Ragstone
from tests.health.conftest import Patient


def looks_well(subject: Subject) -> Iterator[Check]:
    """A check that is well."""
    yield subject.check("looks_well", "ok", hint="left out")


def looks_bad(subject: Subject) -> Iterator[Check]:
    """A check with a finding."""
    yield subject.check("looks_bad", "warn", hint="do something")


def looks_critical(subject: Subject) -> Iterator[Check]:
    """A check with a worse one."""
    yield subject.check("looks_critical", "crit")


def raises(subject: Subject) -> Iterator[Check]:
    """A check with a fault of its own."""
    raise ZeroDivisionError("nothing was counted\nand more")


def takes_long(subject: Subject) -> Iterator[Check]:
    """A check whose statement takes longer than it may."""
    settings = {"statement_timeout": str(subject.left_ms)}
    with subject.database.connection(settings) as connection:
        connection.execute("SELECT pg_sleep(60)")
    yield subject.check("takes_long", "ok")


def loses_its_collection(subject: Subject) -> Iterator[Check]:
    """A check whose collection is deleted while it looks."""
    raise CollectionNotFound("deleted a moment ago")


def only(monkeypatch: pytest.MonkeyPatch, *functions: CheckFunction) -> None:
    """Let these be all the checks of a collection, and none of the corpus."""
    monkeypatch.setattr(running, "CHECKS", functions)
    monkeypatch.setattr(running, "CORPUS_CHECKS", ())
    monkeypatch.setattr(running.service, "recall", lambda subject: ())


def test_a_healthy_corpus_has_no_finding_but_that_it_has_no_backup(patient: Patient) -> None:
    """On a healthy corpus every check can be made, and all are well."""
    report = run(patient.rag)
    assert {check.name for check in report.checks if check.level != "ok"} <= {"backup_age"}
    assert report.took_s < 10


def test_every_check_says_what_it_is_of(patient: Patient) -> None:
    """Names are stable words, collections are named, and of one index no check is given twice."""
    report = run(patient.rag)
    keys = [(check.name, check.collection, check.backend) for check in report.checks]
    assert len(keys) == len(set(keys))
    assert all(check.name.isidentifier() and check.name.islower() for check in report.checks)
    assert {check.collection for check in report.checks} == {None, *patient.rag.collections()}
    assert len({check.name for check in report.checks}) >= 25


def test_functions_have_names_of_their_own() -> None:
    """What a check raises is named after its function: no two are called alike."""
    names = [function.__name__ for function in (*CHECKS, *CORPUS_CHECKS)]
    assert len(names) == len(set(names))


def test_one_collection_alone(patient: Patient, small: Patient) -> None:
    """Asked of one collection, nothing is said of the server or of another collection."""
    report = run(small.rag, small.collection.name)
    assert {check.collection for check in report.checks} == {small.collection.name}


def test_a_collection_that_is_not_there(rag: Ragstone) -> None:
    """Asked of a collection that is not there, the error says so."""
    with pytest.raises(CollectionNotFound, match="nowhere"):
        run(rag, "nowhere")


def test_the_worst_comes_first(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings come first, then what could not be looked at; the report is as bad as the worst of them."""
    only(monkeypatch, looks_well, raises, looks_bad, looks_critical)
    report = run(small.rag, small.collection.name)
    assert [check.level for check in report.checks] == ["crit", "warn", "unknown", "ok"]
    assert report.level == "crit"
    assert [check.name for check in report.findings] == ["looks_critical", "looks_bad"]
    assert [check.hint for check in report.checks if check.name.startswith("looks")] == ["", "do something", ""]


def test_a_check_that_raises_is_unknown(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """What one check raises is said in its place, and the others are seen."""
    only(monkeypatch, raises, looks_bad)
    report = run(small.rag, small.collection.name)
    assert [check.name for check in report.checks] == ["looks_bad", "raises"]
    assert report.checks[1].detail == "nothing was counted"
    assert report.checks[1].collection == small.collection.name


def test_a_statement_ends_with_the_budget(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A statement that takes too long is cancelled by PostgreSQL, and its check is unknown."""
    only(monkeypatch, takes_long, looks_well)
    began_s = time.monotonic()
    report = run(small.rag, small.collection.name, budget_s=0.3)
    assert time.monotonic() - began_s < 5
    assert [(check.name, check.level) for check in report.checks] == [("takes_long", "unknown"), ("looks_well", "ok")]
    assert "statement timeout" in report.checks[0].detail


def test_a_check_that_hangs_is_left_behind(small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that does not come back keeps no other from being made."""
    goes_on = threading.Event()

    def hangs(subject: Subject) -> Iterator[Check]:
        goes_on.wait(60)
        yield subject.check("hangs", "ok")

    only(monkeypatch, hangs, looks_bad)
    monkeypatch.setattr(running, "GRACE_S", 0.1)
    report = run(small.rag, small.collection.name, budget_s=0.1)
    goes_on.set()
    assert [(check.name, check.level) for check in report.checks] == [("looks_bad", "warn"), ("hangs", "unknown")]
    assert report.checks[1].detail == "it did not end within 0.2 s"


def test_a_collection_that_is_deleted_meanwhile(
    patient: Patient, small: Patient, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A collection that goes while it is looked at is left out, and the others are seen."""

    def deleted(subject: Subject) -> Iterator[Check]:
        if subject.state.id == small.collection.id:
            raise CollectionNotFound("deleted a moment ago")
        yield subject.check("deleted", "ok")

    only(monkeypatch, looks_bad, deleted)
    found = {check.collection for check in run(small.rag).checks}
    assert patient.collection.name in found
    assert small.collection.name not in found


def test_what_is_left_of_the_budget_is_never_nothing(rag: Ragstone) -> None:
    """A budget that is spent leaves a millisecond: 0 would let PostgreSQL take for ever."""
    spent = Subject(rag=rag, budget_s=1.0, began_s=time.monotonic() - 10)
    assert (spent.left_s, spent.left_ms) == (0.001, 1)


@pytest.mark.parametrize(("value", "level"), [(0, "ok"), (1, "ok"), (1.1, "warn"), (2, "warn"), (2.1, "crit")])
def test_levels_of_what_should_be_small(value: float, level: str) -> None:
    """Thresholds themselves still belong to the better level."""
    assert level_above(value, 1, 2) == level
