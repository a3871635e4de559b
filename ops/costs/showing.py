"""Money as people read it."""

from decimal import Decimal

FINEST_USD = Decimal("0.000001")


def dollars(amount: Decimal) -> str:
    """Return an amount of USD, down to millionths: `1,234.5`, `0.000012`, `<0.000001`."""
    if 0 < amount < FINEST_USD:
        return f"<{FINEST_USD}"
    return f"{amount.quantize(FINEST_USD).normalize():,f}"
