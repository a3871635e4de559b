"""What a filter means, in Python and in PostgreSQL."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backends.corpus.database import Database
from backends.filters import check_metadata, parse
from tests.congruence.drawing import FILTERS, METADATA


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_filter=FILTERS, metadata=st.lists(METADATA, min_size=1, max_size=6))
def test_a_filter_means_the_same_in_postgresql(
    database: Database, given_filter: dict[str, Any], metadata: list[dict[str, Any]]
) -> None:
    """`matches` in Python and the jsonpath in PostgreSQL agree on every metadata."""
    parsed = parse(given_filter)
    assert parsed is not None
    kept = [json.loads(check_metadata(one)) for one in metadata]
    with database.connection() as connection:
        rows = connection.execute(
            "SELECT coalesce(m::jsonb @@ %s::jsonpath, false) "
            "FROM unnest(%s::text[]) WITH ORDINALITY AS t (m, n) ORDER BY n",
            (parsed.jsonpath(), [check_metadata(one) for one in metadata]),
        ).fetchall()
    assert [row[0] for row in rows] == [parsed.matches(one) for one in kept]
