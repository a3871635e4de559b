"""The HTTP servers side by side, and a client that is faster than any of them."""
