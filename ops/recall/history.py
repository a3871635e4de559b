"""How recall went: what was measured in the background, by period, backend and band."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np

from backends.corpus.collections import find_collection
from backends.corpus.observations import HistoryRow, recall_history
from backends.efforts import Band
from ops.recall.statistics import RecallSummary, summary
from retrieval.library import Ragstone


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """One hour or, with age, one day. Recalls are known to the hundredth. `distance_ratio` as in `BandRecall`."""

    backend: str
    band: Band
    began_at: datetime
    span_s: int
    recall: RecallSummary
    distance_ratio: float | None


def history(rag: Ragstone, name: str, since: timedelta) -> list[Period]:
    """Return the periods since so long ago, oldest first; raises CollectionNotFound."""
    collection = find_collection(rag.database, name)
    rows = recall_history(rag.database, collection.id, datetime.now(UTC) - since)
    has_ratio = collection.spec.metric != "inner_product"
    return [_period(row, has_ratio) for row in rows]


def _period(row: HistoryRow, has_ratio: bool) -> Period:
    recalls = np.repeat(np.arange(len(row.recalls)) / (len(row.recalls) - 1), row.recalls)
    return Period(
        backend=row.backend,
        band=row.band,
        began_at=row.began_at,
        span_s=row.span_s,
        recall=summary(recalls.tolist()),
        distance_ratio=row.distance_ratio_sum / row.queries if has_ratio else None,
    )
