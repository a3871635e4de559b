"""What a request costs: what each stage used of a model or a backend, times the operator's prices. All in Decimal."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, Self

from retrieval.settings_files import amount, amounts, read_settings_file, table

if TYPE_CHECKING:  # documents have costs, so this comes before them
    from retrieval.config import Settings
    from retrieval.documents import Usage

Stage = Literal["embed", "search", "generate"]
Unit = Literal["prompt", "cached_prompt", "completion", "embedding", "vectors", "gpu_s"]
"""What is paid for: four kinds of tokens, vectors that a search stands before, seconds of embedding on this machine."""

STAGES: tuple[Stage, ...] = ("embed", "search", "generate")
TOKENS: tuple[Unit, ...] = ("prompt", "cached_prompt", "completion", "embedding")
PRICED_BACKENDS = ("pgvector", "faiss", "weaviate", "pinecone", "memory")
ANY = "*"
"""In the price table: every model, or every backend, that it does not name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one stage used of one model or backend, and what that costs.

    `priced` says that all that was used has a price; what has none is in `used`, and not in `cost_usd`.
    """

    stage: Stage
    model: str
    used: Mapping[Unit, Decimal]
    cost_usd: Decimal
    priced: bool


@dataclass(frozen=True, slots=True)
class Cost:
    """What a request costs: the sum of its charges."""

    charges: tuple[Charge, ...] = ()

    def __add__(self, other: "Cost") -> "Cost":
        return Cost(self.charges + other.charges)

    @property
    def by_stage(self) -> dict[Stage, Decimal]:
        """USD of each stage that was reached, in the order in which they run."""
        reached = {charge.stage for charge in self.charges}
        return {stage: _sum_usd(self.charges, stage) for stage in STAGES if stage in reached}

    @property
    def total_usd(self) -> Decimal:
        return sum((charge.cost_usd for charge in self.charges), Decimal())

    @property
    def unpriced(self) -> list[Stage]:
        """The stages that used something that has no price: they cost more than is said here."""
        without = {charge.stage for charge in self.charges if not charge.priced}
        return [stage for stage in STAGES if stage in without]

    def as_dict(self) -> dict[str, Any]:
        """Return it for JSON, in USD."""
        by_stage = {stage: float(cost_usd) for stage, cost_usd in self.by_stage.items()}
        return {"total_usd": float(self.total_usd), "by_stage": by_stage, "unpriced": self.unpriced}


NO_COST = Cost()


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What is paid for each unit, in USD. A model or a backend that is not named has the price of "*", or none.

    `embedding_model` is what this service embeds with, by the token where it is `remote`, else by the second.
    """

    tokens: Mapping[str, Mapping[Unit, Decimal]] = field(default_factory=dict)
    vectors: Mapping[str, Decimal] = field(default_factory=dict)
    gpu_s: Decimal | None = None
    embedding_model: str = ""
    remote: bool = False

    @classmethod
    def from_settings(cls, settings: "Settings") -> Self:
        """Read the file that the setting `prices` names; raises InvalidSettings. Without one nothing has a price."""
        model, remote = settings.embedding_model, settings.embedding_url is not None
        if settings.prices is None:
            return cls(embedding_model=model, remote=remote)
        found = table(read_settings_file("prices", settings.prices), "prices", ("tokens", "vectors", "gpu_second"))
        by_model = table(found.get("tokens", {}), "prices.tokens")
        vectors = amounts(found.get("vectors", {}), "prices.vectors", (*PRICED_BACKENDS, ANY))
        return cls(
            tokens={name: _of_model(prices, f'prices.tokens."{name}"') for name, prices in by_model.items()},
            vectors={backend: _per_million(price) for backend, price in vectors.items()},
            gpu_s=amount(found["gpu_second"], "prices.gpu_second") if "gpu_second" in found else None,
            embedding_model=model,
            remote=remote,
        )

    def __bool__(self) -> bool:
        """Whether there is any price."""
        return bool(self.tokens or self.vectors) or self.gpu_s is not None

    @property
    def models(self) -> frozenset[str]:
        """The models that are priced by name."""
        return frozenset(self.tokens) - {ANY}

    def of_retrieval(self, *, backend: str, chunks: int, embed_tokens: int = 0, embed_s: float = 0.0) -> Cost:
        """Return what a search costs in a collection of so many chunks, and what embedding its query did.

        Queries take tokens of an embeddings endpoint, and seconds of this machine where the model runs here.
        """
        search = self._of_search(backend, chunks)
        embedding = _used(embedding=embed_tokens) if self.remote else _used(gpu_s=_seconds(embed_s))
        return Cost((self._of_embedding(embedding), search)) if embedding else Cost((search,))

    def of_generation(self, model: str, usage: "Usage") -> Cost:
        """Return what an answer costs by the tokens that the model server counted."""
        cached = min(usage.cached_tokens, usage.prompt_tokens)
        used = _used(prompt=usage.prompt_tokens - cached, cached_prompt=cached, completion=usage.completion_tokens)
        return Cost((_charge("generate", model, used, self._of(model)),))

    def _of_embedding(self, used: Mapping[Unit, Decimal]) -> Charge:
        prices: Mapping[Unit, Decimal] = self._of(self.embedding_model)
        if not self.remote:
            prices = {} if self.gpu_s is None else {"gpu_s": self.gpu_s}
        return _charge("embed", self.embedding_model, used, prices)

    def _of_search(self, backend: str, chunks: int) -> Charge:
        price = self.vectors.get(backend, self.vectors.get(ANY))
        return _charge("search", backend, _used(vectors=chunks), {} if price is None else {"vectors": price})

    def _of(self, model: str) -> Mapping[Unit, Decimal]:
        return self.tokens.get(model, self.tokens.get(ANY, {}))


def _charge(stage: Stage, model: str, used: Mapping[Unit, Decimal], prices: Mapping[Unit, Decimal]) -> Charge:
    priced = used.keys() & prices.keys()
    cost_usd = sum((used[unit] * prices[unit] for unit in priced), Decimal())
    return Charge(stage=stage, model=model, used=used, cost_usd=cost_usd, priced=len(priced) == len(used))


def _of_model(found: object, where: str) -> dict[Unit, Decimal]:
    given = amounts(found, where, TOKENS)
    prices = {unit: _per_million(given[unit]) for unit in TOKENS if unit in given}
    if "prompt" in prices:
        prices.setdefault("cached_prompt", prices["prompt"])
    return prices


def _used(**counts: int | Decimal) -> dict[Unit, Decimal]:
    """Only what was used at all: nothing of a kind needs no price."""
    return {unit: Decimal(count) for unit, count in counts.items() if count}  # type: ignore[misc]  # callers name units


def _per_million(price: Decimal) -> Decimal:
    return price.scaleb(-6)


def _seconds(measured_s: float) -> Decimal:
    """Whole microseconds, so that sums stay exact."""
    return Decimal(round(measured_s * 1_000_000)).scaleb(-6)


def _sum_usd(charges: Iterable[Charge], stage: Stage) -> Decimal:
    return sum((charge.cost_usd for charge in charges if charge.stage == stage), Decimal())
