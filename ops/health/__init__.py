"""Whether the corpus and its vector indexes are well: checks, what to do about what they find, and doing it."""
