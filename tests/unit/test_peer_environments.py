"""Which environment a peer runs in."""

import sys
from pathlib import Path

import pytest

from benchmarks.peers import environments

PEERS = Path(environments.__file__).parent


def test_each_environment_is_of_a_peer() -> None:
    assert environments.known()
    assert all((PEERS / f"{name}.py").exists() for name in environments.known())


def test_every_requirement_is_pinned() -> None:
    for path in environments.REQUIREMENTS.glob("*.txt"):
        assert all("==" in line for line in path.read_text(encoding="utf-8").splitlines()), path


def test_a_peer_without_requirements_runs_here(tmp_path: Path) -> None:
    assert environments.interpreter("toy", tmp_path) == Path(sys.executable)


def test_an_environment_of_other_requirements_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    requirements = tmp_path / "requirements"
    requirements.mkdir()
    (requirements / "toy.txt").write_text("toy==1\n", encoding="utf-8")
    monkeypatch.setattr(environments, "REQUIREMENTS", requirements)
    monkeypatch.setattr("subprocess.run", lambda command, check: (tmp_path / "toy").mkdir(exist_ok=True))
    assert environments.interpreter("toy", tmp_path) is None
    environments.install("toy", tmp_path)
    assert environments.interpreter("toy", tmp_path) is not None
    (requirements / "toy.txt").write_text("toy==2\n", encoding="utf-8")
    assert environments.interpreter("toy", tmp_path) is None
