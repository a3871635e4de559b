"""What requests must look like and what answers do: the models behind /docs.

Requests are checked by them. Answers are built as plain dicts of the same shape, which is faster; tests hold the two
together.
"""
