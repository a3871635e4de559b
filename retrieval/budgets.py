"""The seam through which an operator limits what requests may spend."""

from decimal import Decimal
from typing import Literal, Protocol

from retrieval.attribution import Tags

Kind = Literal["search", "generate"]


class Purse(Protocol):
    """Asked about each request while it can still be refused. Safe from any thread; blocking, and cheap."""

    def before(self, tags: Tags, kind: Kind) -> list[str]:
        """Count a request, before it costs anything, and return warnings of budgets that are nearly used up.

        Raises BudgetExceeded, and CorpusUnavailable where nobody can say what was spent.
        """
        ...

    def afford(self, tags: Tags, estimated: Decimal) -> list[str]:
        """Return warnings of what an answer would cost at most, in USD, before the model is asked for it.

        Raises BudgetExceeded where that is more than one request may cost, or more than is left of the day's money.
        """
        ...
