"""The parts of a server that speaks Weaviate's REST and gRPC; `tests.fakes.weaviate_server` runs it."""
