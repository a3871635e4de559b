-- name: index_states
-- Whether the two search indexes are there, whole and usable, and what they take.
SELECT c.relname, i.indisvalid AND i.indisready, pg_relation_size(c.oid)
FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid
WHERE c.relnamespace = 'ragstone'::regnamespace AND c.relname = ANY(%(names)s)

-- name: build_lock
-- One builder for each collection, in whatever process it runs.
SELECT pg_try_advisory_lock(%(lock)s, %(collection_id)s::integer)

-- name: create_hnsw
-- Writers go on meanwhile.
CREATE INDEX CONCURRENTLY {hnsw_name} ON {embedding} USING hnsw (embedding {operators})
WITH (m = {m}, ef_construction = {ef_construction})

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
-- Blocks or tuples done, of how many.
SELECT phase, greatest(blocks_done, tuples_done), greatest(blocks_total, tuples_total)
FROM pg_stat_progress_create_index WHERE relid = %(table)s::regclass
