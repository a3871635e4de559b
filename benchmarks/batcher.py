"""The batcher beside one caller looping sentence-transformers' own `encode`, rounds interleaved in one run.

    python -m benchmarks.batcher [--device cuda] [--model-folder PATH] [--rounds 5] [--out results.jsonl]

Queries are distinct questions of about 20 tokens, passages have exactly 120 and 250, all made from the Python
language reference with a seed. The query cache is off. Each measure is the median of the rounds, with the lowest
and the highest; a wait is counted in forward passes of the ingest that runs meanwhile.
"""

import argparse
import json
import os
import platform
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any, TypeVar

import numpy as np

from retrieval.embedding.base import Embedder, Embeddings, Kind, Prepared, TokenSpans
from retrieval.embedding.batching import Batcher
from retrieval.embedding.environment import prepare_environment

CALLERS = 32
BATCH_TOKENS = 8_192
PASSAGE_TOKENS = (120, 250)
SPECIAL_TOKENS = 2
QUESTIONS = ("What does the language reference say about", "When would I use", "Why is there", "How do I write")

Result = dict[str, Any]
T = TypeVar("T")


def main() -> None:
    arguments = _arguments()
    contest = Contest(arguments)
    results = [_machine(contest), contest.quality(), *contest.rounds(arguments.rounds)]
    if arguments.device == "cuda":
        results.append(contest.share_of_matmul(results))
    for result in results:
        print(json.dumps(result))
    if arguments.out is not None:
        with arguments.out.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps({**results[0], **result}) + "\n" for result in results[1:])


class Texts:
    """Questions and passages from real prose, never the same twice, the same for the same seed."""

    def __init__(self, token_spans: Callable[[str], TokenSpans], seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311  # nothing secret
        self._prose = "\n".join(topics[name] for name in sorted(topics))
        self._spans = token_spans(self._prose)

    def queries(self, count: int) -> list[str]:
        """Questions of 13 to 27 tokens, 20 in the middle."""
        return [f"{self._random.choice(QUESTIONS)} {self._cut(self._random.randint(6, 14))}?" for _ in range(count)]

    def passages(self, count: int, tokens: int) -> list[str]:
        return [self._cut(tokens - SPECIAL_TOKENS) for _ in range(count)]

    def _cut(self, tokens: int) -> str:
        first = self._random.randrange(len(self._spans) - tokens)
        return self._prose[self._spans[first, 0] : self._spans[first + tokens - 1, 1]]


class Watched(Embedder):
    """Notes when each forward pass began and ended, and what was in it."""

    def __init__(self, embedder: Embedder) -> None:
        self._embedder = embedder
        self.stamp, self.max_tokens = embedder.stamp, embedder.max_tokens
        self.passes: list[tuple[float, float, Sequence[Prepared]]] = []

    def prepare(self, texts: Sequence[str], kind: Kind) -> list[Prepared]:
        return self._embedder.prepare(texts, kind)

    def token_spans(self, text: str) -> TokenSpans:
        return self._embedder.token_spans(text)

    def run(self, prepared: Sequence[Prepared]) -> Embeddings:
        started = time.perf_counter()
        embeddings = self._embedder.run(prepared)
        self.passes.append((started, time.perf_counter(), prepared))
        return embeddings


class Contest:
    """Our batcher and sentence-transformers with the same weights on the same device."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        prepare_environment()
        from sentence_transformers import SentenceTransformer

        from retrieval.embedding.local import default_folder, open_local

        folder = arguments.model_folder or default_folder()
        self.device: str = arguments.device
        self._theirs = SentenceTransformer(str(folder), device=self.device, local_files_only=True)
        self.embedder = Watched(open_local(str(folder), self.device))
        self.texts = Texts(self.embedder.token_spans, arguments.seed)
        self._queries: int = arguments.queries
        self._passages: int = arguments.passages

    def encode(self, texts: str | list[str]) -> Embeddings:
        embeddings: Embeddings = self._theirs.encode(texts, batch_size=32, show_progress_bar=False)
        return embeddings

    def quality(self) -> Result:
        """The lowest cosine between our embedding of a text and that of encode."""
        texts = self.texts.queries(200) + self.texts.passages(50, 120) + self.texts.passages(50, 250)
        theirs = _in_own_thread(lambda: self.encode(texts))
        ours = _in_own_thread(lambda: self.embedder.embed(texts, "passage"))
        cosines = (theirs * ours).sum(axis=1)
        return {"what": "quality", "lowest_cosine": round(float(cosines.min()), 6)}

    def rounds(self, count: int) -> list[Result]:
        """Run every measure once in each round; the first round warms up and does not count."""
        measured = [self._round() for _ in range(count + 1)][1:]
        names = measured[0]
        return [_summary(name, [values[name] for values in measured]) for name in names] + [
            _ratio("concurrent queries/s to encode", measured, "concurrent_queries_per_s", "encode_queries_per_s"),
            _ratio("single query p50 to encode", measured, "single_p50_ms", "encode_p50_ms"),
            *(
                _ratio(
                    f"passages of {tokens} tokens/s to encode",
                    measured,
                    f"passages_{tokens}_per_s",
                    f"encode_passages_{tokens}_per_s",
                )
                for tokens in PASSAGE_TOKENS
            ),
        ]

    def share_of_matmul(self, results: list[Result]) -> Result:
        """What the model's matrix products of the passages come to, beside a large bfloat16 product."""
        import torch

        left, right = (torch.randn(8_192, 8_192, device=self.device, dtype=torch.bfloat16) for _ in range(2))

        def multiply() -> None:
            for _ in range(20):
                left @ right
            torch.cuda.synchronize()

        multiply()
        possible = 20 * 2 * 8_192**3 / min(_timed(multiply) for _ in range(5))
        tokens = PASSAGE_TOKENS[-1]
        passages_per_s = next(result["median"] for result in results if result["what"] == f"passages_{tokens}_per_s")
        in_layers = sum(
            parameter.numel() for name, parameter in self._theirs.named_parameters() if "encoder.layer" in name
        )
        used = 2 * in_layers * tokens * passages_per_s
        return {
            "what": "share of bfloat16 matmul",
            "matmul_tflops": round(possible / 1e12, 1),
            "passage_tokens_per_s": round(tokens * passages_per_s),
            "share": round(used / possible, 4),
        }

    def _round(self) -> dict[str, float]:
        values = _in_own_thread(self._encode)
        with self._batcher() as batcher:
            values |= self._single_caller(batcher)
            values |= self._concurrent_callers(batcher)
            for tokens in PASSAGE_TOKENS:
                values |= self._passages_per_s(batcher, tokens)
            values |= self._query_during_ingest(batcher)
        return values

    @contextmanager
    def _batcher(self) -> Iterator[Batcher]:
        batcher = Batcher(self.embedder, batch_tokens=BATCH_TOKENS, queue_texts=4_096, cache_queries=0)
        try:
            yield batcher
        finally:
            batcher.close()

    def _encode(self) -> dict[str, float]:
        times_s = _times_s(self.encode, self.texts.queries(self._queries))
        values = {
            "encode_queries_per_s": len(times_s) / sum(times_s),
            "encode_p50_ms": statistics.median(times_s) * 1e3,
        }
        for tokens in PASSAGE_TOKENS:
            passages = self.texts.passages(self._passages, tokens)
            started = time.perf_counter()
            self.encode(passages)
            values[f"encode_passages_{tokens}_per_s"] = len(passages) / (time.perf_counter() - started)
        return values

    def _single_caller(self, batcher: Batcher) -> dict[str, float]:
        times_s = _times_s(lambda query: batcher.embed([query], "query"), self.texts.queries(self._queries))
        return {"single_p50_ms": statistics.median(times_s) * 1e3}

    def _concurrent_callers(self, batcher: Batcher) -> dict[str, float]:
        queries = self.texts.queries(self._queries * 4)
        passes_before = len(self.embedder.passes)
        with ThreadPoolExecutor(CALLERS) as callers:
            seconds = _timed(lambda: list(callers.map(lambda query: batcher.embed([query], "query"), queries)))
        passes = len(self.embedder.passes) - passes_before
        return {"concurrent_queries_per_s": len(queries) / seconds, "queries_per_pass": len(queries) / passes}

    def _passages_per_s(self, batcher: Batcher, tokens: int) -> dict[str, float]:
        passages = self.texts.passages(self._passages, tokens)
        return {f"passages_{tokens}_per_s": len(passages) / _timed(lambda: batcher.embed(passages, "passage"))}

    def _query_during_ingest(self, batcher: Batcher) -> dict[str, float]:
        """One query at a time while two callers ingest: its whole time, in median passes of that ingest."""
        self.embedder.passes.clear()
        with self._ingest(batcher):
            queries = self.texts.queries(max(self._queries // 2, 20))
            times_s = _times_s(lambda query: batcher.embed([query], "query"), queries, longest_pause_s=0.1)
        pass_s = statistics.median(end - start for start, end, texts in self.embedder.passes if texts[0].tokens >= 100)
        waits = np.array(times_s) / pass_s
        return {
            "ingest_pass_ms": pass_s * 1e3,
            "query_during_ingest_p50_ms": statistics.median(times_s) * 1e3,
            "wait_p50_passes": float(np.percentile(waits, 50)),
            "wait_p99_passes": float(np.percentile(waits, 99)),
        }

    @contextmanager
    def _ingest(self, batcher: Batcher) -> Iterator[None]:
        """Keep passages of 120 and 250 tokens waiting for as long as the block runs."""
        passages = self.texts.passages(64, 120) + self.texts.passages(64, 250)
        stop = threading.Event()

        def ingest() -> None:
            while not stop.is_set():
                batcher.embed(passages, "passage")

        with ThreadPoolExecutor(2) as callers:
            ends = [callers.submit(ingest) for _ in range(2)]
            while not batcher.stats().waiting_passages:
                time.sleep(0.001)
            try:
                yield
            finally:
                stop.set()
        for end in ends:
            end.result()


def _summary(name: str, values: list[float]) -> Result:
    middle, low, high = statistics.median(values), min(values), max(values)
    return {"what": name, "median": round(middle, 3), "lowest": round(low, 3), "highest": round(high, 3)}


def _ratio(what: str, measured: list[dict[str, float]], ours: str, theirs: str) -> Result:
    return _summary(f"ratio: {what}", [values[ours] / values[theirs] for values in measured])


def _in_own_thread(call: Callable[[], T]) -> T:
    """Compute in a thread that ends: OpenMP keeps threads for each that lives, and they get in each other's way."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(call).result()


def _timed(call: Callable[[], object]) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def _times_s(call: Callable[[str], object], texts: list[str], longest_pause_s: float = 0) -> list[float]:
    """Time the call with each text, after a pause of random length, so that it comes at any moment of a pass."""
    times_s = []
    for text in texts:
        time.sleep(random.uniform(0, longest_pause_s))  # noqa: S311  # nothing secret
        started = time.perf_counter()
        call(text)
        times_s.append(time.perf_counter() - started)
    return times_s


def _machine(contest: Contest) -> Result:
    import torch

    gpu = torch.cuda.get_device_name() if contest.device == "cuda" else None
    return {
        "benchmark": "batcher",
        "device": gpu or contest.device,
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "load_1_min": round(os.getloadavg()[0], 2),
        "numerics": contest.embedder.stamp.numerics,
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "sentence-transformers", "tokenizers")},
    }


def _cpu() -> str:
    """Name the processor; its family and model stand for a name that a virtual machine hides."""
    first = Path("/proc/cpuinfo").read_text("utf-8").partition("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    about = {name.strip(): value.strip() for name, _, value in pairs}
    return f"{about['model name']} (family {about['cpu family']}, model {about['model']})"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--device", default="cpu", choices=("cpu", "cuda", "mps"))
    parser.add_argument("--model-folder", type=Path, help="a sentence-transformers folder; else the default model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--queries", type=int, default=100, help="in a round, for one caller; four times that for 32")
    parser.add_argument("--passages", type=int, default=64, help="of each length in a round")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a file to which a JSON line for each measure is added")
    return parser.parse_args()


if __name__ == "__main__":
    main()
