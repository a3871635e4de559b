"""What Ragstone costs between a user and a model server: the wait for the first token, and tokens per second.

    python -m benchmarks.generation --url http://127.0.0.1:8000/v1
    python -m benchmarks.generation --url http://127.0.0.1:8000/v1 --questions 20 --rounds 2

`--url` is a model server that streams chat completions. Documents are made from a seed; `ragstone serve` runs in a
process of its own; one client asks it and the model server in turns, with prompts that are alike. Each prompt is asked
once of each, so that a cache of prefixes favours neither. One JSON line for each thing that is shown:

first_token  the wait for the first piece of text, by both ways, and what retrieval took of it
streams      tokens per second of many streams at once, by both ways, in rounds that take turns: while they come, and
             over the whole time, in which retrieval has its part
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import aiohttp
import numpy as np

import retrieval
from ops.measures import percentiles
from retrieval.config import load

NAME = "handbook"
DOCUMENTS = 300
TOP_K = 3
ANSWER_TOKENS = 16
STREAM_TOKENS = 256
SEED = 7
STAGES = ("queue", "embed", "search", "corpus")


@dataclass(frozen=True, slots=True)
class Streamed:
    """What a client saw of one answer."""

    first_s: float
    whole_s: float
    tokens: int
    retrieval_ms: float = 0.0

    @property
    def tokens_per_s(self) -> float:
        """While it came: from the first piece to the last."""
        return (self.tokens - 1) / (self.whole_s - self.first_s)


async def _direct(session: aiohttp.ClientSession, body: dict[str, Any]) -> Streamed:
    """Ask the model server."""
    began_s, first_s, tokens = time.perf_counter(), 0.0, 0
    async with session.post("/v1/chat/completions", json=body) as response:
        response.raise_for_status()
        async for line in response.content:
            if not line.startswith(b"data: {"):
                continue
            payload = json.loads(line[6:])
            if not first_s and any(choice["delta"].get("content") for choice in payload["choices"]):
                first_s = time.perf_counter() - began_s
            tokens = payload["usage"]["completion_tokens"] if payload.get("usage") else tokens
    return Streamed(first_s, time.perf_counter() - began_s, tokens)


async def _through(session: aiohttp.ClientSession, body: dict[str, Any]) -> Streamed:
    """Ask Ragstone."""
    began_s, first_s, name, answer = time.perf_counter(), 0.0, b"", b"{}"
    async with session.post(f"/v1/collections/{NAME}/generate", json=body | {"stream": True}) as response:
        response.raise_for_status()
        async for line in response.content:
            if line.startswith(b"event: "):
                name = line[7:].strip()
            elif line.startswith(b"data: "):
                if name == b"text" and not first_s:
                    first_s = time.perf_counter() - began_s
                answer = line[6:]
    whole_s = time.perf_counter() - began_s
    if name != b"answer":
        raise SystemExit(f"the stream ended with {name.decode()}: {answer.decode()}")
    found = json.loads(answer)
    retrieval_ms = sum(found["timings_ms"].get(stage, 0.0) for stage in STAGES)
    return Streamed(first_s, whole_s, found["usage"]["completion_tokens"], retrieval_ms)


async def _first_token(ours: aiohttp.ClientSession, direct: aiohttp.ClientSession, asked: "Asked") -> dict[str, Any]:
    """One question at a time, by one way and then by the other; a coin says which begins."""
    order = random.Random(SEED)  # noqa: S311  # repeatable, not secret
    found: dict[str, list[Streamed]] = {"through": [], "direct": []}
    for question, body in zip(asked.questions, asked.bodies, strict=True):
        for way in order.sample(["through", "direct"], 2):
            if way == "direct":
                found[way].append(await _direct(direct, body | {"max_tokens": ANSWER_TOKENS}))
            else:
                found[way].append(await _through(ours, _question(question, ANSWER_TOKENS)))
    first_ms = {way: [one.first_s * 1e3 for one in found[way]] for way in found}
    retrieval_ms = [one.retrieval_ms for one in found["through"]]
    extra_ms = [
        through - direct - took
        for through, direct, took in zip(first_ms["through"], first_ms["direct"], retrieval_ms, strict=True)
    ]
    p50 = {way: percentiles(took, (50,))["p50"] for way, took in first_ms.items()}
    retrieval_p50_ms = percentiles(retrieval_ms, (50,))["p50"]
    return {
        "questions": len(asked.questions),
        "p50_ms": {way: round(took, 2) for way, took in p50.items()},
        "p95_ms": {way: round(percentiles(took, (95,))["p95"], 2) for way, took in first_ms.items()},
        "retrieval_p50_ms": round(retrieval_p50_ms, 2),
        "beyond_retrieval_ms": round(p50["through"] - p50["direct"] - retrieval_p50_ms, 2),
        "beyond_retrieval_interval_ms": [round(bound, 2) for bound in _interval(extra_ms)],
    }


async def _streams(
    ours: aiohttp.ClientSession, direct: aiohttp.ClientSession, asked: "Asked", streams: int, rounds: int
) -> dict[str, Any]:
    """As many answers at once as there are streams, by one way and then by the other."""
    order = random.Random(SEED)  # noqa: S311  # repeatable, not secret
    coming: dict[str, list[float]] = {"through": [], "direct": []}
    whole: dict[str, list[float]] = {"through": [], "direct": []}
    for number in range(rounds):
        some = [(number * streams + offset) % len(asked.questions) for offset in range(streams)]
        for way in order.sample(["through", "direct"], 2):
            began_s = time.perf_counter()
            if way == "direct":
                asking = [_direct(direct, asked.bodies[at] | {"max_tokens": STREAM_TOKENS}) for at in some]
            else:
                asking = [_through(ours, _question(asked.questions[at], STREAM_TOKENS)) for at in some]
            found = [one for one in await asyncio.gather(*asking) if one.tokens > 1]
            coming[way].append(sum(one.tokens_per_s for one in found))
            whole[way].append(sum(one.tokens for one in found) / (time.perf_counter() - began_s))
    return {
        "streams": streams,
        "rounds": rounds,
        "first_to_last_token": _compared(coming),
        "with_the_wait_and_retrieval": _compared(whole),
    }


def _compared(rates: dict[str, list[float]]) -> dict[str, Any]:
    ratios = [through / direct for through, direct in zip(rates["through"], rates["direct"], strict=True)]
    return {
        "tokens_per_s": {way: round(float(np.median(found)), 1) for way, found in rates.items()},
        "ratio": round(float(np.median(ratios)), 4),
        "ratio_interval": [round(bound, 4) for bound in _interval(ratios)],
    }


@dataclass(frozen=True, slots=True)
class Asked:
    """Questions, and what the model server is asked for each by who asks it directly."""

    questions: list[str]
    bodies: list[dict[str, Any]]


def _question(question: str, max_tokens: int) -> dict[str, Any]:
    return {"query": question, "top_k": TOP_K, "max_tokens": max_tokens}


def _made(questions: int) -> tuple[list[retrieval.Document], list[str]]:
    """Documents of words from a seed, and questions that each quote one of them."""
    source = random.Random(SEED)  # noqa: S311  # repeatable, not secret
    words = sorted(set(re.findall(r"[a-z]{3,}", (__doc__ or "") + (argparse.__doc__ or ""))))
    texts = [" ".join(source.choices(words, k=150)).capitalize() + "." for _ in range(DOCUMENTS)]
    asked = [" ".join(source.choice(texts).split()[start : start + 12]) for start in _starts(source, questions)]
    return [retrieval.Document(id=f"d{n}", text=text) for n, text in enumerate(texts)], asked


def _starts(source: random.Random, count: int) -> Iterator[int]:
    return (source.randrange(100) for _ in range(count))


def _prepared(folder: str, url: str, model: str | None, questions: int) -> Asked:
    """Load the documents, and write down what the model would be asked."""
    documents, asked = _made(questions)
    settings = load(generator_url=url, generator_model=model, refusal_score=-1.0)
    with retrieval.open(folder, settings=settings) as rag:
        collection = rag.create_collection(NAME)
        collection.upsert(documents)
        bodies = []
        for question in asked:
            prompt = collection.prepare_answer(question, TOP_K).asking.begin().prompt
            assert prompt is not None
            messages = [asdict(message) for message in prompt.messages]
            bodies.append({"model": rag.generator.model, "messages": messages, "stream": True})
    for body in bodies:
        body["stream_options"] = {"include_usage": True}
    return Asked(asked, bodies)


@contextmanager
def _served(folder: str, url: str, model: str | None) -> Iterator[str]:
    environment = {**os.environ, "RAGSTONE_GENERATOR_URL": url, "RAGSTONE_REFUSAL_SCORE": "-1"}
    if model:
        environment["RAGSTONE_GENERATOR_MODEL"] = model
    command = [sys.executable, "-m", "ops.cli", "--data", folder, "serve", "--port", "0"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603
        try:
            assert running.stdout is not None
            line = next(line for line in running.stdout if "http://" in line)
            yield re.findall(r"http://[^\s]+", line)[0]
        finally:
            running.terminate()


def _interval(values: Sequence[float]) -> tuple[float, float]:
    """Return the bootstrapped 95 % interval of a median."""
    drawn = np.random.default_rng(0).choice(values, (10_000, len(values)))
    low, high = np.percentile(np.median(drawn, axis=1), (2.5, 97.5))
    return float(low), float(high)


async def _measured(base: str, url: str, asked: Asked, arguments: argparse.Namespace) -> None:
    timeout = aiohttp.ClientTimeout(total=600)
    server = url.removesuffix("/").removesuffix("/v1")
    async with (
        aiohttp.ClientSession(base, timeout=timeout) as ours,
        aiohttp.ClientSession(server, timeout=timeout) as direct,
    ):
        for _ in range(3):  # the model is loaded, connections are made
            await _through(ours, _question("warm up", 4))
            await _direct(direct, asked.bodies[0] | {"max_tokens": 4})
        print(json.dumps({"first_token": await _first_token(ours, direct, asked)}), flush=True)
        streams = await _streams(ours, direct, asked, arguments.streams, arguments.rounds)
        print(json.dumps({"streams": streams}), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--url", required=True)
    parser.add_argument("--model")
    parser.add_argument("--questions", type=int, default=100)
    parser.add_argument("--streams", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=10)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asked = _prepared(folder, arguments.url, arguments.model, arguments.questions)
        with _served(folder, arguments.url, arguments.model) as base:
            asyncio.run(_measured(base, arguments.url, asked, arguments))


if __name__ == "__main__":
    main()
