-- name: exact
-- Every embedding is compared. Adding 0 keeps the planner from the approximate index.
WITH nearest AS MATERIALIZED (
    SELECT e.chunk_id, (e.embedding {operator} %(query)s) + 0 AS distance FROM {embedding} e
    ORDER BY distance {cut})
SELECT {columns}, n.distance FROM nearest n JOIN {chunk} c ON c.id = n.chunk_id
ORDER BY n.distance, {public_id} LIMIT %(top_k)s

-- name: exact_filtered
-- Every embedding whose metadata matches is compared.
WITH nearest AS MATERIALIZED (
    SELECT c.id, (e.embedding {operator} %(query)s) + 0 AS distance
    FROM {chunk} c JOIN {embedding} e ON e.chunk_id = c.id
    WHERE c.metadata @@ %(filter)s::jsonpath
    ORDER BY distance {cut})
SELECT {columns}, n.distance FROM nearest n JOIN {chunk} c ON c.id = n.id
ORDER BY n.distance, {public_id} LIMIT %(top_k)s

-- name: selected
-- The chunks that were found to match, with the number of the last change in the same view. Adding 0 keeps the planner
-- from the approximate index, OFFSET 0 to the order of the joins.
WITH nearest AS MATERIALIZED (
    SELECT e.chunk_id, (e.embedding {operator} %(query)s) + 0 AS distance FROM {embedding} e
    WHERE e.chunk_id = ANY (%(ids)s::bigint[])
    ORDER BY distance {cut})
SELECT {columns}, n.distance, (SELECT sequence FROM ragstone.collection WHERE id = %(collection_id)s)
FROM nearest n CROSS JOIN LATERAL (SELECT * FROM {chunk} c WHERE c.id = n.chunk_id OFFSET 0) c
ORDER BY n.distance, {public_id} LIMIT %(top_k)s

-- name: exact_selected
-- The chunks that were found to match at number `applied`, and those that came later and match, if they are few and
-- none is forgotten. One row says so in any case. Adding 0 keeps the planner from the approximate index, OFFSET 0 to the order of the joins.
WITH state AS MATERIALIZED (
    SELECT %(applied)s BETWEEN c.horizon AND c.sequence AND (
        SELECT coalesce(sum(h.chunks), 0) <= %(later)s FROM ragstone.change h
        WHERE h.collection_id = %(collection_id)s AND h.sequence > %(applied)s) AS is_whole
    FROM ragstone.collection c WHERE c.id = %(collection_id)s),
later AS MATERIALIZED (
    SELECT w.chunk_id, w.distance FROM ragstone.change h
    CROSS JOIN LATERAL (
        SELECT e.chunk_id, (e.embedding {operator} %(query)s) + 0 AS distance FROM {embedding} e
        WHERE e.chunk_id >= h.block << 20 AND e.chunk_id < (h.block + 1) << 20 OFFSET 0) w
    CROSS JOIN LATERAL (
        SELECT FROM {chunk} c WHERE c.id = w.chunk_id AND c.metadata @@ %(filter)s::jsonpath OFFSET 0) c
    WHERE h.collection_id = %(collection_id)s AND h.sequence > %(applied)s AND (SELECT is_whole FROM state)),
nearest AS MATERIALIZED (
    SELECT chunk_id, distance FROM (
        SELECT e.chunk_id, (e.embedding {operator} %(query)s) + 0 AS distance FROM {embedding} e
        WHERE e.chunk_id = ANY (%(ids)s::bigint[])
        UNION ALL SELECT * FROM later) n
    ORDER BY distance {cut})
SELECT {columns}, n.distance, s.is_whole FROM state s LEFT JOIN (
    nearest n CROSS JOIN LATERAL (SELECT * FROM {chunk} c WHERE c.id = n.chunk_id OFFSET 0) c) ON true
ORDER BY n.distance, {public_id} LIMIT %(top_k)s

-- name: candidates
-- What an index proposed, and the tail: the chunks that came after what it had applied. The nearest of them are
-- found on the narrow table, equally near ones too, and then joined. Adding 0 keeps the planner from HNSW, which is
-- still there for a while after a move.
WITH proposed AS (
    SELECT unnest(%(ids)s::bigint[]) AS chunk_id
    UNION ALL
    SELECT t.chunk_id FROM ragstone.change h
    JOIN {embedding} t ON t.chunk_id >= h.block << 20 AND t.chunk_id < (h.block + 1) << 20
    WHERE h.collection_id = %(collection_id)s AND h.sequence > %(applied)s AND t.chunk_id <> ALL (%(ids)s::bigint[])),
nearest AS MATERIALIZED (
    SELECT e.chunk_id, (e.embedding {operator} %(query)s) + 0 AS distance
    FROM proposed p JOIN {embedding} e ON e.chunk_id = p.chunk_id
    ORDER BY distance FETCH FIRST %(top_k)s ROWS WITH TIES)
SELECT {columns}, n.distance, (SELECT horizon FROM ragstone.collection WHERE id = %(collection_id)s)
FROM nearest n JOIN {chunk} c ON c.id = n.chunk_id
ORDER BY n.distance, {public_id} LIMIT %(top_k)s

-- name: candidates_filtered
-- The same, of those whose metadata matches.
WITH proposed AS (
    SELECT unnest(%(ids)s::bigint[]) AS chunk_id
    UNION ALL
    SELECT t.chunk_id FROM ragstone.change h
    JOIN {embedding} t ON t.chunk_id >= h.block << 20 AND t.chunk_id < (h.block + 1) << 20
    WHERE h.collection_id = %(collection_id)s AND h.sequence > %(applied)s AND t.chunk_id <> ALL (%(ids)s::bigint[]))
SELECT {columns}, (e.embedding {operator} %(query)s) + 0 AS distance,
       (SELECT horizon FROM ragstone.collection WHERE id = %(collection_id)s)
FROM proposed p
JOIN {chunk} c ON c.id = p.chunk_id AND c.metadata @@ %(filter)s::jsonpath
JOIN {embedding} e ON e.chunk_id = p.chunk_id
ORDER BY distance, {public_id} LIMIT %(top_k)s

-- name: nearest
-- Proposed by HNSW, not quite in order (it is a relaxed scan), with the number of the last change in the same view.
-- OFFSET 0 keeps the planner to the order of its joins, so that a plan made without the values is the right one.
SELECT {columns}, n.distance, (SELECT sequence FROM ragstone.collection WHERE id = %(collection_id)s)
FROM (
    SELECT e.chunk_id, e.embedding {operator} %(query)s AS distance FROM {embedding} e
    ORDER BY e.embedding {operator} %(query)s LIMIT %(top_k)s) n
CROSS JOIN LATERAL (SELECT * FROM {chunk} c WHERE c.id = n.chunk_id OFFSET 0) c
ORDER BY n.distance, {public_id}

-- name: nearest_and_recent
-- The same, and what was written a moment ago in small changes: HNSW may miss even that. The number is null while
-- there is anything of that kind; afterwards, as long as it stays the last one, HNSW alone is enough.
WITH nearest AS MATERIALIZED (
    SELECT e.chunk_id, e.embedding {operator} %(query)s AS distance FROM {embedding} e
    ORDER BY e.embedding {operator} %(query)s LIMIT %(top_k)s),
recent AS MATERIALIZED (
    SELECT w.chunk_id, w.distance FROM ragstone.change h
    CROSS JOIN LATERAL (
        SELECT e.chunk_id, e.embedding {operator} %(query)s AS distance FROM {embedding} e
        WHERE e.chunk_id >= h.block << 20 AND e.chunk_id < (h.block + 1) << 20 OFFSET 0) w
    WHERE h.collection_id = %(collection_id)s AND {is_recent}
      AND w.chunk_id <> ALL (ARRAY(SELECT chunk_id FROM nearest))),
best AS MATERIALIZED (
    SELECT * FROM (SELECT * FROM nearest UNION ALL SELECT * FROM recent) n
    ORDER BY distance + 0 LIMIT %(top_k)s)
SELECT {columns}, n.distance, (
    SELECT l.sequence FROM ragstone.collection l WHERE l.id = %(collection_id)s AND NOT EXISTS (
        SELECT FROM ragstone.change h WHERE h.collection_id = l.id AND {is_recent}))
FROM best n
CROSS JOIN LATERAL (SELECT * FROM {chunk} c WHERE c.id = n.chunk_id OFFSET 0) c
ORDER BY n.distance, {public_id}

-- name: nearest_filtered
-- The scan of HNSW goes on until enough of what it proposes matches.
SELECT {columns}, c.distance, (SELECT sequence FROM ragstone.collection WHERE id = %(collection_id)s)
FROM (
    SELECT c.id, {columns}, e.distance
    FROM (
        SELECT e.chunk_id, e.embedding {operator} %(query)s AS distance FROM {embedding} e
        ORDER BY e.embedding {operator} %(query)s LIMIT %(proposals)s) e
    CROSS JOIN LATERAL (
        SELECT * FROM {chunk} c WHERE c.id = e.chunk_id AND c.metadata @@ %(filter)s::jsonpath OFFSET 0) c
    ORDER BY e.distance LIMIT %(top_k)s) c
ORDER BY c.distance, {public_id}

-- name: nearest_filtered_and_recent
-- The same, and what was written a moment ago and matches.
WITH nearest AS MATERIALIZED (
    SELECT c.id, {columns}, e.distance
    FROM (
        SELECT e.chunk_id, e.embedding {operator} %(query)s AS distance FROM {embedding} e
        ORDER BY e.embedding {operator} %(query)s LIMIT %(proposals)s) e
    CROSS JOIN LATERAL (
        SELECT * FROM {chunk} c WHERE c.id = e.chunk_id AND c.metadata @@ %(filter)s::jsonpath OFFSET 0) c
    ORDER BY e.distance LIMIT %(top_k)s),
recent AS MATERIALIZED (
    SELECT c.id, {columns}, w.distance FROM ragstone.change h
    CROSS JOIN LATERAL (
        SELECT e.chunk_id, e.embedding {operator} %(query)s AS distance FROM {embedding} e
        WHERE e.chunk_id >= h.block << 20 AND e.chunk_id < (h.block + 1) << 20 OFFSET 0) w
    CROSS JOIN LATERAL (
        SELECT * FROM {chunk} c WHERE c.id = w.chunk_id AND c.metadata @@ %(filter)s::jsonpath OFFSET 0) c
    WHERE h.collection_id = %(collection_id)s AND {is_recent}
      AND w.chunk_id <> ALL (ARRAY(SELECT id FROM nearest)))
SELECT {columns}, c.distance, (
    SELECT l.sequence FROM ragstone.collection l WHERE l.id = %(collection_id)s AND NOT EXISTS (
        SELECT FROM ragstone.change h WHERE h.collection_id = l.id AND {is_recent}))
FROM (SELECT * FROM nearest UNION ALL SELECT * FROM recent) c
ORDER BY c.distance + 0, {public_id} LIMIT %(top_k)s

-- name: nearest_ids
-- Ids and distances alone.
SELECT e.chunk_id, e.embedding {operator} %(query)s AS distance FROM {embedding} e
ORDER BY e.embedding {operator} %(query)s LIMIT %(candidates)s

-- name: of_many
-- A search for each of several queries: what a statement costs beside the search is paid once.
SELECT found.*, q.position FROM {asked} CROSS JOIN LATERAL ({search}) found
ORDER BY q.position, found.distance, {public_id}

-- name: asked
-- The queries, numbered from 1.
unnest(%(queries)s::{type}[]) WITH ORDINALITY q(embedding, position)

-- name: asked_with_ids
-- The same, each with its part of the ids, which is cut out once (OFFSET 0).
unnest(%(queries)s::{type}[], %(firsts)s::bigint[], %(lasts)s::bigint[]) WITH ORDINALITY a(embedding, first, last, position)
CROSS JOIN LATERAL (
    SELECT a.embedding, a.position, (%(ids)s::bigint[])[a.first::int:a.last::int] AS ids OFFSET 0) q

-- name: count_matching
-- How many chunks match, counted no further than the limit.
SELECT count(*) FROM (SELECT FROM {chunk} WHERE metadata @@ %(filter)s::jsonpath LIMIT %(limit)s) matching

-- name: matching_ids
-- The chunks that match, no more than the limit, with the number of the last change and of all chunks in the same view.
SELECT c.sequence, c.chunks, array(SELECT id FROM {chunk} WHERE metadata @@ %(filter)s::jsonpath LIMIT %(limit)s)
FROM ragstone.collection c WHERE c.id = %(collection_id)s
