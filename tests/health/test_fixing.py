"""What is done about findings: each thing once, and one that fails keeps no other from being done."""

from collections.abc import Callable

from backends.errors import Conflict, RagstoneError
from ops.health import running
from ops.health.check import Check, Fix
from ops.health.fixing import FIXES, fixes_for, mend
from tests.health.conftest import Patient


def test_each_thing_is_done_once(small: Patient) -> None:
    """Two findings that the same mends lead to one fix; one that nothing safe mends leads to none."""
    of_collection = {"level": "crit", "collection": small.collection.name, "backend": "pgvector"}
    findings = [Check(name=name, **of_collection) for name in ("index_bloat", "hnsw_self_recall", "zero_embeddings")]  # type: ignore[arg-type]
    assert [fix.description for fix in fixes_for(small.rag, findings)] == [
        f"REINDEX INDEX CONCURRENTLY the HNSW of {small.collection.name}, then VACUUM (ANALYZE)"
    ]


def test_a_finding_that_is_gone_needs_no_fix(small: Patient) -> None:
    """What was mended between the look and the fix is left alone."""
    gone = [
        Check(name="unjoined_embeddings", level="warn", collection=small.collection.name),
        Check(name="leftover_indexes", level="warn", collection=small.collection.name),
        Check(name="autovacuum_on", level="warn"),
        Check(name="pgvector_version", level="warn"),
    ]
    assert fixes_for(small.rag, gone) == []


def test_a_fix_that_fails_does_not_keep_the_next_from_being_done() -> None:
    """Each fix is told before it begins; what went wrong with one is returned, and the next is done."""
    told: list[str] = []
    done: list[str] = []

    def refuses(error: RagstoneError) -> Callable[[], None]:
        def run() -> None:
            raise error

        return run

    fixes = [
        Fix(description="build it", run=refuses(Conflict("another process builds it"))),
        Fix(description="drop it", run=lambda: done.append("dropped")),
    ]
    found = mend(fixes, told.append)
    assert told == ["build it", "drop it"]
    assert done == ["dropped"]
    assert [(one.description, one.problem) for one in found] == [
        ("build it", "another process builds it"),
        ("drop it", None),
    ]


def test_a_build_that_another_process_has_begun(patient: Patient) -> None:
    """A build that somebody else is making is not made twice, and the fix says so."""
    patient.sql(f"DROP INDEX {patient.hnsw}")
    finding = Check(name="hnsw_ready", level="crit", collection=patient.collection.name, backend="pgvector")
    with patient.transaction() as other:
        other.execute("SELECT pg_advisory_lock(%s, %s)", (0x6275, patient.collection.id))
        (done,) = mend(fixes_for(patient.rag, [finding]), lambda _: None)
    assert done.problem is not None
    assert "is built by another process now" in done.problem


def test_every_fix_belongs_to_a_check() -> None:
    """No fix is listed under a name that no check has: it would never be done."""
    names = {function.__name__ for function in (*running.CHECKS, *running.CORPUS_CHECKS)}
    given_beside = {"index_orphans", "faiss_empty_lists"}  # by index_ids and faiss_lists
    assert set(FIXES) <= names | given_beside
