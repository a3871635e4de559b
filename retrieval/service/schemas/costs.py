"""What a request cost."""

from typing import Any

from pydantic import Field
from pydantic.config import JsonDict

from retrieval.costing import Cost
from retrieval.service.schemas.base import Result

COST_EXAMPLE: JsonDict = {
    "total_usd": 0.000412,
    "by_stage": {"embed": 0.000002, "search": 0.00001, "generate": 0.0004},
    "unpriced": [],
}


class CostResult(Result):
    """What a request cost, by the prices that the operator set."""

    total_usd: float = Field(description="US dollars, all stages together.")
    by_stage: dict[str, float] = Field(description="The same for each stage: `embed`, `search`, `generate`.")
    unpriced: list[str] = Field(description="Stages that used what has no price: they cost more than is said here.")


def cost_json(cost: Cost) -> dict[str, Any] | None:
    """Return a CostResult as a dict; None where nothing that was used has a price."""
    return cost.as_dict() if any(charge.used and charge.priced for charge in cost.charges) else None
