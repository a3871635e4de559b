"""What Prometheus sees of costs: this process's spending, and of the budgets how much is used. No tag is a label."""

from collections.abc import Iterable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from backends.corpus.spending import OTHER, Spent
from ops.costs import Costs
from ops.costs.clock import utc_now
from ops.costs.recording import Subject
from ops.costs.report import Standing, standings
from ops.generation import telemetry_of
from ops.generation.model_names import ModelNames
from ops.scraping import BoundedLook
from retrieval.costing import PRICED_BACKENDS
from retrieval.library import Ragstone

LOOK_EVERY_S = 15.0
TOKENS = {
    "prompt": "prompt_tokens",
    "cached_prompt": "cached_tokens",
    "completion": "completion_tokens",
    "embedding": "embedding_tokens",
}


class CostMetrics(Collector):
    """Reads what runs at each scrape, and now and then the corpus, for what all servers used of the budgets."""

    def __init__(self, rag: Ragstone, costs: Costs) -> None:
        self._costs = costs
        self._rag = rag
        self._named = _named(rag)
        self._models = ModelNames()
        self._look = BoundedLook[list[Standing]](
            "cost", lambda: standings(rag.database, costs.budgets, utc_now().date(), shown=1), [], LOOK_EVERY_S
        )

    def collect(self) -> Iterable[Metric]:
        yield from _of_spending(self._totals())
        if self._costs.purse is not None:
            names = [budget.name for budget in self._costs.budgets]
            yield _of_use(self._look.value())
            yield _counted("refused", "Requests refused by a hard limit", names, self._costs.purse.refused())
            yield _counted("warned", "Warnings given by a soft limit", names, self._costs.purse.warned())

    def _totals(self) -> dict[Subject, Spent]:
        """By names of a bounded set: of backends and embedders those that are known, of models the first."""
        telemetry = telemetry_of(self._rag)
        models = self._models if telemetry is None else telemetry.answers.models  # as the metrics of generation say it
        totals: dict[Subject, Spent] = {}
        for subject, spent in self._costs.recorder.totals().items():
            named = subject._replace(model=self._name(subject, models))
            totals[named] = totals.get(named, Spent()) + spent
        return totals

    def _name(self, subject: Subject, models: ModelNames) -> str:
        if subject.stage == "generate":
            return models.named(subject.model)
        return subject.model if subject.model in self._named else OTHER


def _named(rag: Ragstone) -> frozenset[str]:
    return rag.prices.models | {rag.settings.embedding_model} | set(PRICED_BACKENDS)


def _of_spending(totals: dict[Subject, Spent]) -> Iterable[Metric]:
    cost = CounterMetricFamily("ragstone_cost_usd", "What requests cost, in USD", labels=["stage", "model"])
    requests = CounterMetricFamily(
        "ragstone_cost_unpriced_requests", "Requests that used what has no price", labels=["stage", "model"]
    )
    tokens = CounterMetricFamily("ragstone_cost_tokens", "Tokens that requests used", labels=["kind", "model"])
    for (stage, model), spent in _summed(totals.items()).items():
        cost.add_metric([stage, model], float(spent.cost_usd))
        for kind, column in TOKENS.items():
            if count := getattr(spent, column):
                tokens.add_metric([kind, model], count)
    for (stage, model), spent in _summed(one for one in totals.items() if not one[0].priced).items():
        requests.add_metric([stage, model], spent.requests)
    yield from (cost, requests, tokens)


def _of_use(found: list[Standing]) -> Metric:
    ratio = GaugeMetricFamily(
        "ragstone_budget_used_ratio", "Share of a day's budget that is used, by who used most of it", labels=["budget"]
    )
    for standing in found:
        limit = standing.budget.soft if standing.budget.hard is None else standing.budget.hard
        if standing.budget.per == "day" and limit is not None:
            ratio.add_metric([standing.budget.name], float(standing.used / limit) if limit else 1.0)
    return ratio


def _counted(what: str, help_: str, names: Iterable[str], counts: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(f"ragstone_budget_{what}", help_, labels=["budget"])
    for name in names:
        family.add_metric([name], counts.get(name, 0))
    return family


def _summed(totals: Iterable[tuple[Subject, Spent]]) -> dict[tuple[str, str], Spent]:
    """By stage and model, whether it had a price or not."""
    summed: dict[tuple[str, str], Spent] = {}
    for subject, spent in totals:
        key = subject.stage, subject.model
        summed[key] = summed.get(key, Spent()) + spent
    return summed
