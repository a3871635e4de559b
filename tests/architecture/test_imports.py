"""The house: which room may import which, read from the imports themselves."""

import ast
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ROOMS = ["backends", "retrieval", "ops", "benchmarks"]
DRIVERS = {  # a driver, and the only places that may import it
    "fastapi": ["retrieval/service"],
    "starlette": ["retrieval/service", "benchmarks/http"],
    "uvicorn": ["ops", "benchmarks/http"],
    "typer": ["ops"],
    "psycopg": ["backends", "benchmarks"],
    "psycopg_pool": ["backends"],
    "pgvector": ["backends", "benchmarks"],
    "torch": ["retrieval/embedding", "benchmarks"],
    "sentence_transformers": ["retrieval/embedding", "benchmarks"],
    "transformers": ["retrieval/embedding", "benchmarks"],
    "httpx": ["retrieval/embedding", "retrieval/generation", "backends/weaviate", "benchmarks"],
    "faiss": ["backends/faiss", "benchmarks"],
    "fsspec": ["ops/backup"],
    "grpc": ["backends/weaviate"],
    "opentelemetry": ["ops/latency/tracing.py"],
    "pinecone": ["backends/pinecone"],
    "pyarrow": ["backends/corpus/arrow.py", "backends/corpus/exporting.py", "backends/corpus/staging.py", "ops/backup"],
    "weaviate": ["backends/weaviate"],
}


def _sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def _imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""


@pytest.mark.parametrize("room", ROOMS)
def test_imports_run_one_way(room: str) -> None:
    """Of backends <- retrieval <- ops <- benchmarks, no room imports one that stands on it, nor the tests."""
    above = {*ROOMS[ROOMS.index(room) + 1 :], "tests"}
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in _sources(room)
        for name in _imports(path)
        if name.split(".")[0] in above
    ]
    assert not wrong


@pytest.mark.parametrize("driver", sorted(DRIVERS))
def test_a_driver_is_imported_in_its_own_room(driver: str) -> None:
    """Each outside library is known in one place, so that it can be exchanged there."""
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for room in ROOMS
        for path in _sources(room)
        for name in _imports(path)
        if name.split(".")[0] == driver
        and not any(path.relative_to(ROOT).as_posix().startswith(place) for place in DRIVERS[driver])
    ]
    assert not wrong


def test_the_wheel_holds_three_packages() -> None:
    """The wheel has backends, retrieval and ops; benchmarks and tests stay out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    included = project["tool"]["setuptools"]["packages"]["find"]["include"]
    assert included == ["backends*", "retrieval*", "ops*"]


def test_functions_and_files_stay_readable() -> None:
    """No function over 60 lines, no file over 400."""
    long = []
    for path in [path for room in ROOMS for path in _sources(room)]:
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > 400:
            long.append(f"{path.relative_to(ROOT)}")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > 60:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}: {lines} lines")
    assert not long
