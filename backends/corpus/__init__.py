"""The corpus: the system of record in PostgreSQL."""
