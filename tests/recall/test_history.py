"""How recall went over time."""

from datetime import UTC, datetime, timedelta

import pytest

from backends.corpus.observations import Measured, hundredth, record_measured, thin_history
from ops import recall
from ops.recall.measuring import HOURS_KEPT_S
from tests.recall.asking import Asked

NOW = datetime.now(UTC).replace(minute=30, second=0, microsecond=0)
NOON = NOW.replace(hour=12)
YEAR = timedelta(days=365)


def happened(asked: Asked, at: datetime, *recalls: float) -> None:
    """Let queries be measured that were asked then."""
    captured = asked.captured([1.0, 0.0], {})
    for value in recalls:
        found = Measured(recall=value, distance_ratio=2 - value, band="all", short=False)
        record_measured(asked.rag.database, captured, found, at)


def test_an_hour_is_one_row(asked: Asked) -> None:
    """What was asked within an hour is told together; another hour, band or index has a row of its own."""
    happened(asked, NOW, 1.0, 0.5)
    happened(asked, NOW - timedelta(minutes=20), 0.9)
    happened(asked, NOW - timedelta(hours=1), 0.7)
    captured = asked.captured([1.0, 0.0], {}, backend="faiss")
    record_measured(asked.rag.database, captured, Measured(recall=1.0, band="1%"), NOW)
    before, filtered, here = recall.history(asked.rag, asked.name, YEAR)
    assert (before.recall.queries, before.recall.mean) == (1, 0.7)
    assert (here.recall.queries, here.recall.mean) == (3, pytest.approx(0.8))
    assert here.distance_ratio == pytest.approx((1 + 1.5 + 1.1) / 3)
    assert here.began_at == NOW.replace(minute=0)
    assert (here.recall.below_08, here.span_s) == (pytest.approx(1 / 3), 3_600)
    assert (filtered.backend, filtered.band) == ("faiss", "1%")


def test_old_hours_become_days(asked: Asked) -> None:
    """Hours of a day more than a week ago are added up, also when another turns up later; younger ones stay."""
    old, young = NOON - timedelta(days=9), NOON - timedelta(days=6)
    happened(asked, old, 1.0, 0.5)
    happened(asked, old + timedelta(hours=3), 0.5)
    happened(asked, young, 0.9)
    happened(asked, young + timedelta(hours=1), 0.8)
    thin_history(asked.rag.database, HOURS_KEPT_S)
    day, *hours = recall.history(asked.rag, asked.name, YEAR)
    assert day.began_at == old.replace(hour=0, minute=0)
    assert (day.span_s, day.recall.queries, day.recall.mean) == (86_400, 3, pytest.approx(2 / 3))
    assert day.distance_ratio == pytest.approx((1 + 1.5 + 1.5) / 3)
    assert [hour.recall.mean for hour in hours] == [0.9, 0.8]
    happened(asked, old + timedelta(hours=5), 1.0)
    for _ in range(2):
        thin_history(asked.rag.database, HOURS_KEPT_S)
    day, *hours = recall.history(asked.rag, asked.name, YEAR)
    assert (day.recall.queries, day.recall.mean) == (4, pytest.approx(0.75))
    assert len(hours) == 2


def test_only_as_far_back_as_was_asked(asked: Asked) -> None:
    """An hour of yesterday is not in the last two hours; one that has begun before them and lasts into them is."""
    happened(asked, datetime.now(UTC) - timedelta(days=1), 0.5)
    happened(asked, datetime.now(UTC) - timedelta(minutes=90), 1.0)
    assert [period.recall.mean for period in recall.history(asked.rag, asked.name, timedelta(hours=2))] == [1.0]


def test_only_a_whole_recall_is_counted_as_whole() -> None:
    """999 hits of 1,000 are not everything; tenths are counted as they are."""
    assert hundredth(1.0) == 100
    assert hundredth(0.999) == 99
    assert [hundredth(tenths / 10) for tenths in range(10)] == list(range(0, 100, 10))
