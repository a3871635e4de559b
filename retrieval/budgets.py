"""The seam through which an operator limits what requests may spend."""

from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal, Protocol

from backends.corpus.spending import BudgetKey
from retrieval.attribution import Tags

Kind = Literal["search", "generate"]


@dataclass(slots=True)
class Counted:
    """A request that was let in: warnings of budgets that are nearly used up, and the uses that it counts in.

    `uses` is the purse's own; it is empty once the request was given back.
    """

    warnings: list[str] = field(default_factory=list)
    uses: tuple[BudgetKey, ...] = ()


class Purse(Protocol):
    """Asked about each request while it can still be refused. Safe from any thread; blocking, and cheap."""

    def before(self, tags: Tags, kind: Kind) -> Counted:
        """Count a request, before it costs anything.

        Raises BudgetExceeded, which counts it in no budget, and CorpusUnavailable where nobody can say what was spent.
        """
        ...

    def give_back(self, counted: Counted) -> None:
        """Take back the count of a request that was refused afterwards. Never raises; again, it does nothing."""
        ...

    def afford(self, tags: Tags, estimated: Decimal) -> list[str]:
        """Return warnings of what an answer would cost at most, in USD, before the model is asked for it.

        Raises BudgetExceeded where that is more than one request may cost, or more than is left of the day's money.
        """
        ...
