"""Costs: what each request used, times the operator's prices, added up by who asked; and budgets that limit it."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from ops.costs.limits import Budget, read_budgets
from ops.costs.purse import DatabasePurse
from ops.costs.recording import SpendingRecorder
from retrieval.library import Ragstone


@dataclass(frozen=True, slots=True)
class Costs:
    """What runs: the recorder, and the purse where there are budgets."""

    recorder: SpendingRecorder
    budgets: list[Budget]
    purse: DatabasePurse | None


@contextmanager
def running(rag: Ragstone) -> Iterator[Costs]:
    """Record what is spent while the block runs, and hold requests to the budgets; raises InvalidSettings."""
    budgets = read_budgets(rag.settings)
    recorder = SpendingRecorder(rag.database, budgets)
    purse = DatabasePurse(rag.database, budgets) if budgets else None
    with ExitStack() as stack:
        stack.enter_context(recorder.running())
        rag.observers.add(recorder)
        stack.callback(rag.observers.remove, recorder)
        rag.purse = purse
        stack.callback(setattr, rag, "purse", None)
        yield Costs(recorder, budgets, purse)
