"""Where things are kept and found: the corpus in PostgreSQL, and the vector indexes derived from it."""
