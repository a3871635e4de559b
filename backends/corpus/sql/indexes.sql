-- name: index_states
-- Whether the two search indexes are there, whole and usable, and what they take.
SELECT c.relname, i.indisvalid AND i.indisready, pg_relation_size(c.oid)
FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relnamespace = 'ragstone'::regnamespace AND c.relname = ANY(%(names)s)

-- name: build_lock
-- One builder for each collection, in whatever process it runs. What takes long is HNSW's distances, not reading the
-- table: several processes share the work on one below 8 MB, too.
SELECT pg_try_advisory_lock(%(lock)s, %(collection_id)s::integer),
       set_config('min_parallel_table_scan_size', '0', false)

-- name: create_hnsw
-- Writers go on meanwhile.
CREATE INDEX CONCURRENTLY {hnsw_name} ON {embedding} USING hnsw (embedding {operators})
WITH (m = {m}, ef_construction = {ef_construction})

-- name: copy_probe
-- Some rows, to measure a build on; they go with the transaction.
CREATE TEMPORARY TABLE ragstone_probe ON COMMIT DROP AS SELECT embedding FROM {embedding} LIMIT %(rows)s

-- name: create_probe
-- As HNSW is built on the whole.
CREATE INDEX ON ragstone_probe USING hnsw (embedding {operators}) WITH (m = {m}, ef_construction = {ef_construction})

-- name: create_gin
-- For filters: equality finds its chunks without reading the others.
CREATE INDEX CONCURRENTLY {gin_name} ON {chunk} USING gin (metadata jsonb_path_ops)

-- name: drop_hnsw
-- Also the invalid one that an interrupted build leaves behind.
DROP INDEX CONCURRENTLY IF EXISTS {hnsw}

-- name: drop_gin
-- Also the invalid one that an interrupted build leaves behind.
DROP INDEX CONCURRENTLY IF EXISTS {gin}

-- name: analyze_chunks
-- So that the planner knows the new table.
ANALYZE {chunk}

-- name: analyze_embeddings
-- So that the planner knows the new table.
ANALYZE {embedding}

-- name: build_progress
-- Blocks of the table read, of how many.
SELECT phase, blocks_done, blocks_total
FROM pg_stat_progress_create_index WHERE relid = %(table)s::regclass

-- name: embedding_ids
-- HNSW holds what the table holds.
SELECT chunk_id FROM {embedding}

-- name: list_indexes
-- Every index of a collection, the serving one first.
SELECT i.id, i.collection_id, i.backend, i.serving, i.state, i.applied, i.durable, i.away_since, i.away_reason,
       i.changed_at, c.sequence
FROM ragstone.vector_index i JOIN ragstone.collection c ON c.id = i.collection_id
WHERE i.collection_id = %(collection_id)s ORDER BY i.serving DESC, i.id

-- name: find_index
-- One index.
SELECT i.id, i.collection_id, i.backend, i.serving, i.state, i.applied, i.durable, i.away_since, i.away_reason,
       i.changed_at, c.sequence
FROM ragstone.vector_index i JOIN ragstone.collection c ON c.id = i.collection_id
WHERE i.id = %(index_id)s

-- name: all_indexes
-- Every index of every collection, with the collection's name.
SELECT i.id, i.collection_id, i.backend, i.serving, i.state, i.applied, i.durable, i.away_since, i.away_reason,
       i.changed_at, c.sequence, c.name
FROM ragstone.vector_index i JOIN ragstone.collection c ON c.id = i.collection_id
ORDER BY c.name, i.id

-- name: begin_index
-- From here on, changes are kept for it, if it has to follow them.
INSERT INTO ragstone.vector_index (collection_id, backend, serving, state, durable)
SELECT id, %(backend)s, false, 'building', CASE WHEN %(follows)s THEN sequence END FROM ragstone.collection WHERE id = %(collection_id)s
RETURNING id

-- name: record_applied
-- How far an index has come, as whoever follows for all others sees it; it is not away any more.
UPDATE ragstone.vector_index SET applied = %(applied)s, durable = %(durable)s, away_since = NULL, away_reason = NULL
WHERE id = %(index_id)s

-- name: record_away
-- An index cannot be followed: writers do not wait for it, until it has caught up.
UPDATE ragstone.vector_index SET away_since = coalesce(away_since, now()), away_reason = %(reason)s
WHERE id = %(index_id)s

-- name: set_index_state
-- From building to live, from live to dropping.
UPDATE ragstone.vector_index SET state = %(state)s, changed_at = now() WHERE id = %(index_id)s

-- name: stop_serving
-- The first half of a flip; the other half follows in the same transaction.
UPDATE ragstone.vector_index SET serving = false, changed_at = now()
WHERE collection_id = %(collection_id)s AND serving

-- name: start_serving
-- Only a live index of this collection can serve.
UPDATE ragstone.vector_index SET serving = true, changed_at = now()
WHERE id = %(index_id)s AND collection_id = %(collection_id)s AND state = 'live' RETURNING id

-- name: forget_index
-- Its data is gone from where it was.
DELETE FROM ragstone.vector_index WHERE id = %(index_id)s AND NOT serving

-- name: follow_lock
-- One process applies to an index; the lock ends with its connection.
SELECT pg_try_advisory_lock(%(lock)s, %(index_id)s::integer)

-- name: follow_unlock
-- Let another process have it.
SELECT pg_advisory_unlock(%(lock)s, %(index_id)s::integer)

-- name: chunk_ids
-- All ids, for a parity check.
SELECT id FROM {chunk}

-- name: sample_embeddings
-- Some stored embeddings, as queries: from random pages, and of these at random.
SELECT e.embedding FROM (
    SELECT chunk_id, embedding FROM {embedding} TABLESAMPLE SYSTEM (%(percent)s) REPEATABLE (%(seed)s)) e
ORDER BY hashint8extended(e.chunk_id, %(seed)s) LIMIT %(count)s
