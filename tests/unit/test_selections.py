"""What is remembered of filters: how long, how much, and when the index is asked in vain."""

from functools import partial

import numpy as np
import pytest

from backends import selections
from backends.filters import Compare
from backends.selections import UNKNOWN, Attempts, Matching, Selections


def _matching(count: int, chunks: int = 1_000) -> Matching:
    return Matching(count, chunks, np.arange(count, dtype=np.int64), sequence=1)


def _same(found: Matching) -> Matching:
    return found


def test_an_index_that_never_finds_enough_is_asked_ever_less() -> None:
    """After one failure one search goes without it, then three, and at most 31."""
    attempts = Attempts()
    asked = []
    for _ in range(100):
        asked.append(attempts.pays())
        if asked[-1]:
            attempts.note(reached=False)
    assert [n for n, was_asked in enumerate(asked) if was_asked] == [0, 2, 6, 14, 30, 62, 94]


def test_an_index_that_finds_enough_again_is_asked_always() -> None:
    """One success makes up for all failures."""
    attempts = Attempts()
    for _ in range(3):
        attempts.note(reached=False)
    while not attempts.pays():
        pass
    attempts.note(reached=True)
    assert all(attempts.pays() for _ in range(10))


@pytest.mark.parametrize("top_k", [1, 10, 100])
@pytest.mark.parametrize("count", [50, 500])
def test_what_is_proposed_holds_enough_that_match(top_k: int, count: int) -> None:
    """Where matching chunks lie anywhere, about 19 of 20 times; where all there are are not enough, all are wanted."""
    proposals = _matching(count).proposals(top_k, most=1_000)
    assert proposals <= 1_000
    if count < top_k:
        assert proposals == 1_000
        return
    rng = np.random.default_rng(0)
    drawn = rng.random((500, 1_000)).argsort(axis=1)[:, :count]
    assert ((drawn < proposals).sum(axis=1) >= top_k).mean() >= 0.93


def test_without_ids_there_is_no_bound() -> None:
    """What cannot be compared afterwards has to be found by the index."""
    assert UNKNOWN.proposals(10, most=20_000) == 20_000
    assert Matching(50_000, 60_000).proposals(10, most=20_000) == 20_000


def test_ids_last_longer_than_counts() -> None:
    """Ids are right for their number; how many match grows old."""
    for found, ids_ttl_s, looks_again in (
        (_matching(3), 60.0, False),
        (_matching(3), 0.0, True),
        (Matching(3), 60.0, True),
    ):
        kept = Selections(0.0, ids_ttl_s)
        kept.renew(Compare("a", "$eq", 1), partial(_same, found))
        assert (kept.get(Compare("a", "$eq", 1), lambda _: UNKNOWN) is UNKNOWN) == looks_again


def test_only_so_many_ids_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """The filters that were not asked for longest go first; the newest stays, however much it matches."""
    monkeypatch.setattr(selections, "IDS_KEPT", 10)
    kept = Selections(60.0, 60.0)
    first, second, third = (Compare("a", "$eq", n) for n in range(3))
    for filter in (first, second, first, third):
        kept.get(filter, lambda _: _matching(5))
    looked: list[str] = []

    def look(name: str) -> Matching:
        looked.append(name)
        return _matching(5)

    kept.get(first, lambda _: look("first"))
    kept.get(second, lambda _: look("second"))
    assert looked == ["second"]
    kept.get(third, lambda _: look("third"))
    assert looked == ["second", "third"]
    kept.renew(second, lambda: _matching(11))
    assert kept.get(second, lambda _: look("again")).count == 11
    assert looked == ["second", "third"]


def test_what_comes_again_is_looked_at_further() -> None:
    """The first look may be cut; the second is not, and is the last."""
    kept = Selections(60.0, 60.0)
    looks: list[bool] = []

    def look(again: bool) -> Matching:
        looks.append(again)
        return _matching(9) if again else Matching(5, 1_000, is_cut=True)

    counts = [kept.get(Compare("a", "$eq", 1), look).count for _ in range(4)]
    assert counts == [5, 9, 9, 9]
    assert looks == [False, True]
