"""`ragstone health`: what it prints, how it ends, and that nothing is done unasked."""

import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from io import StringIO
from typing import Any

import pytest

from ops.cli.app import run
from ops.health import running
from ops.health.check import Check, Subject
from tests.health.conftest import HEALTHY, Patient


@dataclass(frozen=True)
class Ended:
    """How a command ended, and its words."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Command:
    """`ragstone health` in this process."""

    def __init__(self, url: str, capsys: pytest.CaptureFixture[str]) -> None:
        self._url = url
        self._capsys = capsys

    def __call__(self, *words: str) -> Ended:
        self._capsys.readouterr()
        status = run(["--data", self._url, "health", *words])
        return Ended(status, *self._capsys.readouterr())


@pytest.fixture
def health(url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Command:
    for name, value in HEALTHY.items():
        monkeypatch.setenv(f"RAGSTONE_{name.upper()}", str(value))
    monkeypatch.setenv("COLUMNS", "100")
    return Command(url, capsys)


def test_a_healthy_collection(health: Command, patient: Patient) -> None:
    """Where all is well the command ends with 0, and lists every check with what it found."""
    done = health(patient.collection.name)
    assert done.status == 0, done.out
    assert "hnsw_self_recall" in done.out
    assert "0 findings in " in done.out
    assert "crit" not in done.out


def test_a_finding_with_what_to_do(health: Command, patient: Patient) -> None:
    """A finding ends with 1; it comes first, and below the table stands what to do about it."""
    patient.sql(f"DROP INDEX {patient.chunk}_metadata")
    done = health(patient.collection.name)
    assert done.status == 1
    lines = done.out.splitlines()
    assert lines[1].split()[:2] == ["crit", "filter_index_ready"]
    hints = "\n".join(lines[lines.index("") :])
    assert "filter_index_ready" in hints
    assert "build it: --fix" in hints
    assert "1 findings in " in hints


def test_json(health: Command, patient: Patient) -> None:
    """`--json` prints one document: the worst level, every check with value and unit, what was done."""
    patient.sql(f"DROP INDEX {patient.chunk}_metadata")
    done = health(patient.collection.name, "--json")
    assert (done.status, done.json["level"], done.json["fixes"]) == (1, "crit", [])
    found = next(check for check in done.json["checks"] if check["name"] == "filter_index_ready")
    assert set(found) == set(Check.__slots__)
    assert (found["level"], found["backend"], found["collection"]) == ("crit", "pgvector", patient.collection.name)
    assert done.json["took_s"] > 0


def test_the_whole_corpus(health: Command, small: Patient) -> None:
    """Without a name the server is looked at too; a corpus without a backup is a finding."""
    done = health("--json")
    assert done.status == 1
    levels = {(check["name"], check["collection"]): check["level"] for check in done.json["checks"]}
    assert levels["backup_age", None] == "warn"
    assert levels["postgresql_version", None] == "ok"
    assert levels["unjoined_embeddings", small.collection.name] == "ok"


def test_what_could_not_be_looked_at(health: Command, small: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is wrong and something could not be looked at, the command ends with 3."""

    def away(subject: Subject) -> Iterator[Check]:
        yield subject.check("away", "unknown", detail="it does not answer")

    monkeypatch.setattr(running, "CHECKS", (away,))
    done = health(small.collection.name)
    assert done.status == 3
    assert "it does not answer" in done.out


def test_a_collection_that_is_not_there(health: Command, small: Patient) -> None:
    """A wrong name is wrong usage: 2, with one line that says so."""
    done = health("nowhere")
    assert (done.status, done.out) == (2, "")
    assert "there is no collection 'nowhere'" in done.err


def test_fix_without_a_word_of_agreement(health: Command, patient: Patient, monkeypatch: pytest.MonkeyPatch) -> None:
    """`--fix` shows what would be done and asks; where nobody agrees, nothing is done."""
    patient.sql(f"DROP INDEX {patient.hnsw}")
    for answer in ("n\n", ""):
        monkeypatch.setattr(sys, "stdin", StringIO(answer))
        done = health(patient.collection.name, "--fix")
        assert done.status == 1
        assert f"build HNSW of {patient.collection.name}" in done.err
        assert patient.sql("SELECT to_regclass(%s)", patient.hnsw) == [(None,)]


@pytest.mark.parametrize("agreed", [["--yes"], []], ids=["--yes", "asked"])
def test_fix(health: Command, patient: Patient, monkeypatch: pytest.MonkeyPatch, agreed: list[str]) -> None:
    """`--fix` mends what it can where somebody agrees, checks again, and ends as that second look does."""
    patient.sql(f"DROP INDEX {patient.hnsw}")
    patient.sql(f"DROP INDEX {patient.chunk}_metadata")
    monkeypatch.setattr(sys, "stdin", StringIO("y\n"))
    done = health(patient.collection.name, "--fix", "--json", *agreed)
    assert done.status == 0, done.out
    assert done.json["level"] == "ok"
    assert {fix["description"]: fix["problem"] for fix in done.json["fixes"]} == {
        f"build HNSW of {patient.collection.name}": None,
        f"build the index on the metadata of {patient.collection.name}": None,
    }


def test_fix_where_nothing_is_wrong(health: Command, patient: Patient) -> None:
    """With nothing to mend, nobody is asked."""
    done = health(patient.collection.name, "--fix")
    assert (done.status, done.err) == (0, "")
