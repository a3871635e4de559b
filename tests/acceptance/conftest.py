"""A data folder that the tests share, and documents to put into it."""

import json
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

import retrieval
from tests.acceptance.command import Ragstone

PLANETS = {
    "mercury.md": "# Mercury\n\nMercury is the smallest planet. It has no moons.\n\n## Surface\n\nIt is cratered.\n",
    "inner/venus.txt": "Venus spins backwards. A day on Venus is longer than its year.",
    "outer/saturn.html": "<title>Saturn</title><p>Saturn has bright rings of ice.</p>",
}


@pytest.fixture(scope="session", autouse=True)
def _commands_take_ctrl_c() -> None:
    """A run in the background of a script ignores SIGINT, and the commands that it starts would inherit that."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def ragstone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ragstone]:
    """The command on a folder that the tests share; it is held open, so that PostgreSQL starts once."""
    data = tmp_path_factory.mktemp("shared") / "data"
    with retrieval.open(data, settings=retrieval.Settings(embedding_model="hashing")):
        yield Ragstone(data)


@pytest.fixture
def planets(tmp_path: Path) -> Path:
    """A folder of three small documents in three formats, and a file of another kind."""
    folder = tmp_path / "planets"
    for name, text in PLANETS.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (folder / "photo.png").write_bytes(b"\x89PNG")
    return folder


@pytest.fixture
def corpus_jsonl(tmp_path: Path) -> Path:
    """Forty short documents, one a line."""
    lines = [
        {"_id": f"d{number:02}", "title": f"Star {number}", "text": f"Star {number} shines.", "metadata": {"n": number}}
        for number in range(40)
    ]
    path = tmp_path / "stars.jsonl"
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path
