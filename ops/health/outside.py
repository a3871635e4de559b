"""The checks of indexes outside the corpus, of what follows it, of moves and of backups; and what mends them."""

from ops.health import backups, effort, faiss_figures, following, managed, moves, parity
from ops.health.check import CheckFunction, FixFunction

CHECKS: tuple[CheckFunction, ...] = (
    *following.CHECKS,
    *parity.CHECKS,
    *effort.CHECKS,
    *faiss_figures.CHECKS,
    *managed.CHECKS,
    *moves.CHECKS,
)
CORPUS_CHECKS: tuple[CheckFunction, ...] = backups.CORPUS_CHECKS
FIXES: dict[str, FixFunction] = following.FIXES | parity.FIXES | faiss_figures.FIXES | moves.FIXES | backups.FIXES
