"""How large a forward pass may be, learned from how long the last ones took."""

from math import ceil, floor

PASS_TARGET_S = 0.1
"""A pass of passages should not keep a query waiting longer than about this."""

FIRST_BUDGET_TOKENS = 1_024
LEAST_WORTHWHILE_TOKENS = 512
"""Below this a pass takes about as long whatever is in it: on a busy machine ever smaller passes would get nowhere."""

LARGEST_STEP = 1.25
UNMEASURED_TOKENS_PER_S = 5_000.0
SHORTEST_RETRY_S, LONGEST_RETRY_S = 0.1, 60.0


class Pace:
    """The token budget of the next pass: as many as the model does in PASS_TARGET_S, at most `batch_tokens`.

    The budget moves by at most a quarter with each pass, so that one pass that was disturbed changes little.
    """

    def __init__(self, batch_tokens: int) -> None:
        self._batch_tokens = batch_tokens
        self._tokens_per_s = UNMEASURED_TOKENS_PER_S
        self.budget_tokens = min(batch_tokens, FIRST_BUDGET_TOKENS)

    def observe(self, tokens: int, seconds: float) -> None:
        """Learn from a pass. A pass that was far smaller than the budget says nothing about a full one."""
        if tokens * 2 < self.budget_tokens:
            return
        self._tokens_per_s = tokens / max(seconds, 1e-6)
        fitting = max(int(self._tokens_per_s * PASS_TARGET_S), LEAST_WORTHWHILE_TOKENS)
        lowest, highest = floor(self.budget_tokens / LARGEST_STEP), ceil(self.budget_tokens * LARGEST_STEP)
        self.budget_tokens = max(1, min(max(fitting, lowest), highest, self._batch_tokens))

    def shrink(self, tokens: int) -> None:
        """Halve what did not fit into memory."""
        self.budget_tokens = max(1, tokens // 2)

    def retry_after_s(self, tokens: int) -> float:
        """Return how long that many waiting tokens will take, kept to sensible bounds."""
        return min(max(tokens / self._tokens_per_s, SHORTEST_RETRY_S), LONGEST_RETRY_S)
