"""The benchmarks that are programs of their own, run one after the other, their JSON lines taken in as results."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.harness.datasets import FOLDER_VARIABLE
from benchmarks.harness.plan import Bench
from benchmarks.harness.results import figure

Json = dict[str, Any]
MNIST = "{mnist}"
VLLM = "{vllm}"
VLLM_VARIABLE = "RAGSTONE_VLLM_URL"
MOST_S = 3 * 3_600
TAIL_CHARACTERS = 600


@dataclass(frozen=True)
class Script:
    """A module below `benchmarks`, with what it is given in a small run and a full one; None leaves it out.

    "{mnist}" and "{vllm}" stand for a file and a model server that not everybody has; without, a script is skipped.
    """

    module: str
    small: tuple[str, ...] | None
    full: tuple[str, ...]


SCRIPTS = (
    Script("corpus", ("--rows", "10000", "--rounds", "2", "--only", "search,load"), ("--npz", MNIST, "--rounds", "5")),
    Script("backup", None, ("--rows", "500000", "--rounds", "3")),
    Script("moving", None, ("--rows", "50000", "--rounds", "5")),
    Script("recall_tracking", None, ("--npz", MNIST)),
    Script("generation", None, ("--url", VLLM)),
)
FIGURES = (
    # script, its "what", the key of the value, the figure
    ("corpus", "search", "ratio_p50", "search.over_raw_same_tables"),
    ("corpus", "search", "ratio_p50_kept", "search.over_raw_same_tables_plan_kept"),
    ("corpus", "filtered search", "ratio_to_faster_of_recall_0.99", "filter.over_raw_same_tables"),
    ("corpus", "load", "share_of_copy", "ingest.share_of_copy"),
    ("corpus", "load", "replace_share_of_copy", "ingest.replace_share_of_copy"),
)


def scripts(bench: Bench) -> Iterator[Json]:
    """Run each script of this size, and say so where one cannot run or fails."""
    for script in SCRIPTS:
        given = script.full if bench.sizes.name == "full" else script.small
        if given is None:
            continue
        missing, arguments = _filled(given)
        if missing:
            yield {"what": "skipped", "script": script.module, "why": missing}
        else:
            yield from _run(bench, script.module, arguments)


def _filled(given: tuple[str, ...]) -> tuple[str, list[str]]:
    """Put files and servers in their places; the first word says what is missing, or nothing."""
    folder, vllm = os.environ.get(FOLDER_VARIABLE), os.environ.get(VLLM_VARIABLE)
    mnist = None if folder is None else Path(folder) / "mnist-784.npz"
    if MNIST in given and (mnist is None or not mnist.exists()):
        return f"it needs mnist-784.npz in {FOLDER_VARIABLE}", []
    if VLLM in given and vllm is None:
        return f"it needs a model server in {VLLM_VARIABLE}", []
    return "", [{MNIST: str(mnist), VLLM: str(vllm)}.get(word, word) for word in given]


def _run(bench: Bench, module: str, arguments: list[str]) -> Iterator[Json]:
    command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
    started_s = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=MOST_S, check=False)  # noqa: S603  # our own module
    except subprocess.TimeoutExpired:
        bench.failures.append(f"benchmarks.{module} did not end within {MOST_S} s")
        return
    if done.returncode:
        bench.failures.append(f"benchmarks.{module} failed: {done.stderr[-TAIL_CHARACTERS:].strip()}")
    yield {"what": "ran", "script": module, "took_s": round(time.perf_counter() - started_s, 1)}
    found = [json.loads(line) for line in done.stdout.split("\n") if line.startswith("{")]
    given = " ".join(word for word in arguments if "/" not in word)
    for one in found:
        yield {"what": "script", "script": module, "found": one}
        yield from _figures(module, given, one)


def _figures(module: str, given: str, found: Json) -> Iterator[Json]:
    for script, what, key, name in FIGURES:
        if (module, found.get("what")) == (script, what) and found.get(key) is not None:
            about = " ".join(f"{word} {found[word]}" for word in ("relation", "share") if word in found)
            yield figure(name, found[key], f"benchmarks.{module} {given} {about}".strip())
