"""The harness: data sets, exact truth, workers in turn, results, and the report."""
