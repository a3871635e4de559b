"""From a question and its hits to an answer that can be asked for: refused, or with its prompt built and paid for."""

import math
import time
from collections.abc import Sequence
from decimal import Decimal

from backends.types import Metric
from retrieval.attribution import current_tags
from retrieval.budgets import Purse
from retrieval.config import Settings
from retrieval.context import build_prompt
from retrieval.costing import Prices
from retrieval.documents import Retrieval, Usage
from retrieval.generation.answering import Answering, Clock
from retrieval.generation.base import Generator, Message, Prompt
from retrieval.generation.budget import budget_for
from retrieval.generation.templates import DEFAULT_TEMPLATE, PromptTemplate

NO_PRICES = Prices()


def prepare(
    query: str,
    retrieval: Retrieval,
    *,
    generator: Generator,
    settings: Settings,
    metric: Metric = "cosine",
    template: PromptTemplate = DEFAULT_TEMPLATE,
    prices: Prices = NO_PRICES,
    purse: Purse | None = None,
    max_tokens: int | None = None,
    history: Sequence[Message] = (),
    came_s: float | None = None,
    streamed: bool = False,
) -> Answering:
    """Return the answer to `query` from what was retrieved for it, before the model is asked.

    Where no hit's score reaches `settings.refusal_score`, it will say that nothing was found. `came_s` is when the
    question came, on `time.perf_counter`. Raises InvalidInput for a question that leaves no room for a passage, and
    BudgetExceeded for an answer that may cost too much.
    """
    answering = Answering(
        retrieval=retrieval,
        generator=generator,
        prompt=None,
        max_tokens=max_tokens or settings.answer_tokens,
        prices=prices,
        tags=current_tags(),
        clock=Clock(came_s=time.perf_counter() if came_s is None else came_s),
        timings_ms=dict(retrieval.timings_ms),
        streamed=streamed,
    )
    least = _refusal_score(settings, metric)
    if not any(hit.score >= least for hit in retrieval.hits):
        return answering
    started_s = time.perf_counter()
    budget = budget_for(settings, generator, max_tokens)
    prompt = build_prompt(query, retrieval.hits, budget=budget, history=history, template=template)
    answering.prompt, answering.calibration = prompt, budget.calibration
    answering.timings_ms["prompt"] = round((time.perf_counter() - started_s) * 1000, 3)
    if purse is not None and not generator.quotes:
        if not generator.model:
            generator.ping()  # a price is a model's
        answering.warnings += purse.afford(answering.tags, _at_most(answering, prompt))
    return answering


def _at_most(answering: Answering, prompt: Prompt) -> Decimal:
    """Return what the model may cost, in USD: the prompt, and an answer as long as it may get."""
    usage = Usage(prompt_tokens=prompt.tokens, completion_tokens=answering.most_tokens)
    return answering.prices.of_generation(answering.generator.model, usage).total_usd


def _refusal_score(settings: Settings, metric: Metric) -> float:
    """The setting is a cosine; for embeddings of length 1, distance² = 2 - 2 cosine."""
    cosine = min(settings.refusal_score, 1.0)
    return -math.sqrt(2 - 2 * cosine) if metric == "l2" else cosine
