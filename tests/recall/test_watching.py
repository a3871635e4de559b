"""Seeing recall fall below its target, and taking back an effort that made searches worse."""

import logging

import numpy as np
import pytest

from backends.corpus.observations import Tuning, take_back, tune, watched_tunings
from ops import recall
from ops.recall import watching
from ops.recall.watching import Watch, p99_limit_ms
from retrieval import Ragstone
from tests.recall.asking import Asked

BAD, GOOD = [0.7, 0.8] * 30, [1.0, 0.99] * 100


def below(asked: Asked) -> list[str]:
    return [one.band for one in recall.below_target(asked.rag.database, asked.rag) if one.collection == asked.name]


def lines(caplog: pytest.LogCaptureFixture, asked: Asked) -> list[str]:
    return [record.getMessage() for record in caplog.records if asked.name in record.getMessage()]


def test_below_its_target_is_told_once_per_change(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    """It is logged when recall falls below the target and when it is back, and not in between."""
    caplog.set_level(logging.WARNING)
    watch = Watch(asked.rag)
    asked.measured(GOOD[:60])
    watch.look()
    assert lines(caplog, asked) == []
    asked.forget()
    asked.measured(BAD)
    for _ in range(3):
        watch.look()
    assert below(asked) == ["all"]
    (fell,) = lines(caplog, asked)
    assert "below its target" in fell
    assert "0.750" in fell
    assert f"ragstone recall tune {asked.name}" in fell
    asked.measured(GOOD)
    for _ in range(3):
        watch.look()
    assert below(asked) == []
    assert len(lines(caplog, asked)) == 2
    assert "not below its target any more" in lines(caplog, asked)[1]


def test_each_band_stands_for_itself(asked: Asked) -> None:
    """Filtered searches that miss hits are not hidden by the others, which do not."""
    asked.measured(GOOD, band="all")
    asked.measured(BAD, band="1%")
    assert below(asked) == ["1%"]


def test_the_target_is_the_collections_own(asked: Asked) -> None:
    """A collection that asks for less is content with less."""
    asked.measured(BAD)
    assert below(asked) == ["all"]
    asked.collection.configure(recall_target=0.6)
    assert below(asked) == []


def test_chance_is_no_alert(asked: Asked) -> None:
    """Two bad queries, or a mean that is a little below, may be chance."""
    asked.measured([0.7, 0.8])
    assert below(asked) == []
    asked.forget()
    asked.measured([1.0] * 45 + [0.4] * 5)
    (standing,) = [one for one in recall.standings(asked.rag.database, asked.rag) if one.collection == asked.name]
    assert standing.recall.mean < standing.target
    assert not standing.below


def test_only_the_index_that_serves_is_judged(asked: Asked) -> None:
    """What an index found that does not serve any more is no alert, nor is what was measured long ago."""
    asked.measured(BAD, backend="faiss")
    assert below(asked) == []
    asked.measured(BAD)
    with asked.sql() as connection:
        connection.execute(
            "UPDATE ragstone.captured_query SET captured_at = now() - interval '25 hours' WHERE collection_id = %s",
            (asked.collection.id,),
        )
    assert below(asked) == []


def test_an_effort_that_was_set_since_is_judged_by_itself(asked: Asked) -> None:
    """What was measured with the effort before says nothing of the one that holds now."""
    asked.measured(BAD)
    tuned(asked)
    assert below(asked) == []
    asked.measured(BAD)
    assert below(asked) == ["all"]


def tuned(asked: Asked, effort: int = 80, before: float = 0.99, p99_limit_ms: float | None = 15.0) -> Tuning:
    """Let an effort be set, as tuning does it."""
    return tune(
        asked.rag.database,
        asked.state,
        "all",
        effort,
        target=0.95,
        recall_before=before,
        p99_limit_ms=p99_limit_ms,
    )


def effort(asked: Asked) -> int | None:
    return asked.state.efforts.get("pgvector", {}).get("all")


def test_recall_that_got_worse_takes_an_effort_back(asked: Asked, caplog: pytest.LogCaptureFixture) -> None:
    """Searches with the new effort find less than before and less than wanted: the one before holds again, once."""
    first = tuned(asked, effort=160)
    assert first.previous is None
    assert tuned(asked, effort=80).previous == 160
    asked.measured(BAD, effort=80)
    caplog.set_level(logging.WARNING)
    for _ in range(2):
        Watch(asked.rag).look()
    assert effort(asked) == 160
    (told,) = [line for line in lines(caplog, asked) if "taken back" in line]
    assert "recall 0.750 on 60 queries, it was 0.990 before, target 0.95" in told
    assert "160 holds again" in told


def test_searches_that_got_slower_take_an_effort_back(asked: Asked) -> None:
    """A 99th percentile above the limit that was set: the default holds again."""
    tuned(asked)
    asked.measured([1.0] * 95, effort=80, search_ms=10.0)
    asked.measured([1.0] * 5, effort=80, search_ms=100.0)
    Watch(asked.rag).look()
    assert effort(asked) is None


@pytest.mark.parametrize(
    ("recalls", "given"),
    [
        (BAD[:20], {"effort": 80}),
        (BAD, {"effort": None}),
        (BAD, {"effort": 80, "exact": True}),
        (GOOD[:120], {"effort": 80, "search_ms": 14.0}),
        ([0.96, 0.94] * 60, {"effort": 80}),
        (GOOD[:90], {"effort": 80, "search_ms": 1_000.0}),
    ],
    ids=["too few", "another effort's", "without the index", "all is well", "chance", "too few for a percentile"],
)
def test_an_effort_stays_where_nothing_got_worse(asked: Asked, recalls: list[float], given: dict[str, object]) -> None:
    """Few queries, those that did not use it, and what is as before condemn nothing."""
    tuned(asked, before=0.955)
    asked.measured(recalls, **given)
    Watch(asked.rag).look()
    assert effort(asked) == 80


def test_more_than_was_wanted_may_be_less_than_before(asked: Asked) -> None:
    """An effort that was lowered on purpose finds less, and enough."""
    tuned(asked, before=1.0)
    asked.measured([1.0, 0.9, 1.0] * 60, effort=80)
    Watch(asked.rag).look()
    assert effort(asked) == 80


def test_without_a_limit_latency_condemns_nothing(asked: Asked) -> None:
    """Where too few searches were known before, there is nothing to compare with."""
    tuned(asked, p99_limit_ms=None)
    asked.measured([1.0] * 120, effort=80, search_ms=1_000.0)
    Watch(asked.rag).look()
    assert effort(asked) == 80


def test_the_limit_allows_what_the_effort_costs() -> None:
    """1.5 times the 99th percentile of before, and of that as much as the effort was found to cost; never less."""
    before_ms = np.linspace(1, 101, 101).tolist()
    assert p99_limit_ms(before_ms, 1.0) == pytest.approx(150)
    assert p99_limit_ms(before_ms, 2.0) == pytest.approx(300)
    assert p99_limit_ms(before_ms, 0.3) == pytest.approx(150)
    assert p99_limit_ms(before_ms[:99], 1.0) is None


def test_an_effort_that_was_changed_since_is_not_watched(asked: Asked) -> None:
    """A later tuning stands in place of the first, which cannot be taken back any more."""
    first = tuned(asked, effort=80)
    tuned(asked, effort=120)
    assert [one.tuning.effort for one in watched(asked)] == [120]
    assert not take_back(asked.rag.database, first)
    assert effort(asked) == 120


def test_other_bands_and_backends_keep_their_efforts(asked: Asked) -> None:
    """Setting one effort, and taking it back, leaves the others."""
    with asked.sql() as connection:
        connection.execute(
            """UPDATE ragstone.collection SET efforts = '{"faiss": {"all": 64}, "pgvector": {"1%%": 320}}'
               WHERE id = %s""",
            (asked.collection.id,),
        )
    tuning = tuned(asked, effort=80)
    assert asked.state.efforts == {"faiss": {"all": 64}, "pgvector": {"1%": 320, "all": 80}}
    assert take_back(asked.rag.database, tuning)
    assert asked.state.efforts == {"faiss": {"all": 64}, "pgvector": {"1%": 320}}


def test_a_tuning_is_watched_for_a_week(rag: Ragstone, asked: Asked) -> None:
    """What changes later has other reasons."""
    tuned(asked)
    assert watched(asked)
    with asked.sql() as connection:
        connection.execute("UPDATE ragstone.tuning SET tuned_at = now() - interval '8 days'")
    assert not watched(asked)


def watched(asked: Asked) -> list[watching.WatchedTuning]:
    found = watched_tunings(asked.rag.database, watching.WATCHED_S)
    return [one for one in found if one.collection == asked.name]
