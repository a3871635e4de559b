-- name: server
-- Versions, and the settings that decide how an index is built, kept and cleaned.
SELECT current_setting('server_version_num')::integer, current_setting('server_version'),
       (SELECT extversion FROM pg_extension WHERE extname = 'vector'),
       (SELECT default_version FROM pg_available_extensions WHERE name = 'vector'),
       pg_size_bytes(current_setting('maintenance_work_mem')), pg_size_bytes(current_setting('shared_buffers')),
       pg_size_bytes(current_setting('effective_cache_size')), current_setting('autovacuum')::boolean,
       current_setting('track_counts')::boolean

-- name: connections
-- Connections in use and allowed: of the server's, of this database's, of this user's.
WITH used AS (
    SELECT datname = current_database() AS of_database, usename = current_user AS of_user
    FROM pg_stat_activity WHERE backend_type = 'client backend')
SELECT 'server', (SELECT count(*) FROM used),
       current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer
       - coalesce(current_setting('reserved_connections', true)::integer, 0)
UNION ALL
SELECT 'database', (SELECT count(*) FROM used WHERE of_database), datconnlimit
FROM pg_database WHERE datname = current_database() AND datconnlimit > 0
UNION ALL
SELECT 'user', (SELECT count(*) FROM used WHERE of_user), rolconnlimit
FROM pg_roles WHERE rolname = current_user AND rolconnlimit > 0

-- name: oldest_transaction
-- The transaction that has kept vacuum from removing rows for longest: what it can see must stay.
SELECT extract(epoch FROM now() - began)::double precision, who FROM (
    SELECT xact_start AS began,
           format('process %%s of %%s (%%s), %%s', pid, coalesce(usename, '?'),
                  coalesce(nullif(application_name, ''), 'no application_name'), coalesce(state, backend_type)) AS who
    FROM pg_stat_activity
    WHERE xact_start IS NOT NULL AND (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL)
      AND (datname = current_database() OR datname IS NULL)
      AND backend_type <> 'autovacuum worker' AND pid <> pg_backend_pid()
    UNION ALL
    SELECT prepared, format('prepared transaction %%L of %%s', gid, owner) FROM pg_prepared_xacts
    WHERE database = current_database()) holders
ORDER BY began LIMIT 1

-- name: idle_slot
-- The replication slot that nobody reads from and that keeps the most WAL.
SELECT slot_name, pg_wal_lsn_diff(pg_current_wal_lsn(), restart_lsn)::bigint FROM pg_replication_slots
WHERE NOT active AND restart_lsn IS NOT NULL ORDER BY 2 DESC LIMIT 1

-- name: oldest_table
-- Which of the corpus's tables needs old transaction numbers most, and how old the oldest of the database is.
SELECT c.relname, greatest(age(c.relfrozenxid), age(t.relfrozenxid)),
       (SELECT age(datfrozenxid) FROM pg_database WHERE datname = current_database())
FROM pg_class c LEFT JOIN pg_class t ON t.oid = c.reltoastrelid
WHERE c.relnamespace = 'ragstone'::regnamespace AND c.relkind = 'r' ORDER BY 2 DESC LIMIT 1

-- name: unvacuumed_tables
-- Tables that autovacuum was told to leave alone.
SELECT c.relname FROM pg_class c, pg_options_to_table(c.reloptions) o
WHERE c.relnamespace = 'ragstone'::regnamespace AND c.relkind = 'r'
  AND o.option_name = 'autovacuum_enabled' AND NOT o.option_value::boolean
ORDER BY c.relname

-- name: index_bytes
-- What the vector indexes of all collections take, and the largest of them.
SELECT coalesce(sum(pg_relation_size(c.oid)), 0)::bigint, coalesce(max(pg_relation_size(c.oid)), 0)::bigint
FROM pg_class c JOIN pg_am a ON a.oid = c.relam
WHERE c.relnamespace = 'ragstone'::regnamespace AND a.amname = 'hnsw'

-- name: table_rows
-- Rows that are there, rows that are dead, and when they were last removed.
SELECT relname, n_live_tup, n_dead_tup, greatest(last_vacuum, last_autovacuum)
FROM pg_stat_user_tables WHERE relid IN (to_regclass(%(chunk)s), to_regclass(%(embedding)s)) ORDER BY relname

-- name: indexes
-- Every index of a collection's tables: whether it is whole, what it takes, how often its pages were in memory.
SELECT c.relname, a.amname, i.indisvalid AND i.indisready, pg_relation_size(c.oid), s.idx_blks_hit, s.idx_blks_read
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
LEFT JOIN pg_statio_user_indexes s ON s.indexrelid = c.oid
WHERE i.indrelid IN (to_regclass(%(chunk)s), to_regclass(%(embedding)s)) ORDER BY c.relname

-- name: build
-- A build under way, how long it has taken, and whom it waits for.
SELECT p.phase, p.blocks_done, p.blocks_total, p.tuples_done, p.tuples_total,
       coalesce(extract(epoch FROM now() - a.query_start), 0)::double precision,
       CASE WHEN b.pid IS NOT NULL THEN format('process %%s of %%s (%%s), %%s since %%s', b.pid, coalesce(b.usename, '?'),
           coalesce(nullif(b.application_name, ''), 'no application_name'), b.state,
           to_char(b.state_change, 'YYYY-MM-DD HH24:MI:SS')) END
FROM pg_stat_progress_create_index p
JOIN pg_stat_activity a ON a.pid = p.pid
LEFT JOIN pg_stat_activity b ON b.pid = p.current_locker_pid
WHERE p.relid = to_regclass(%(embedding)s)

-- name: unjoined
-- Embeddings without a chunk, and chunks without an embedding: neither can be found.
SELECT (SELECT count(*) FROM {embedding} e WHERE NOT EXISTS (SELECT FROM {chunk} c WHERE c.id = e.chunk_id)),
       (SELECT count(*) FROM {chunk} c WHERE NOT EXISTS (SELECT FROM {embedding} e WHERE e.chunk_id = c.id))

-- name: norms
-- How many embeddings were looked at, how many are zero, and how many are not of length 1.
SELECT count(*), count(*) FILTER (WHERE norm = 0), count(*) FILTER (WHERE norm > 0 AND abs(norm - 1) > %(tolerance)s)
FROM (SELECT l2_norm(embedding) AS norm FROM {embedding} TABLESAMPLE SYSTEM (%(percent)s)) norms

-- name: column_type
-- How the embeddings are kept.
SELECT format_type(atttypid, atttypmod) FROM pg_attribute
WHERE attrelid = to_regclass(%(embedding)s) AND attname = 'embedding'

-- name: change_log
-- Changes and deletes that are kept for the indexes that follow, counted as far as the limit.
SELECT sequence - horizon, (SELECT count(*) FROM (
    SELECT FROM ragstone.tombstone t WHERE t.collection_id = c.id LIMIT %(limit)s) kept)
FROM ragstone.collection c WHERE c.id = %(collection_id)s

-- name: sample_metadata
-- Some chunks' metadata, from pages drawn at random.
SELECT metadata FROM {chunk} TABLESAMPLE SYSTEM (%(percent)s) WHERE metadata <> '{{}}' LIMIT %(count)s

-- name: matching_by_reading
-- Chunks that match, counted as far as the limit by reading the table itself, so that no index can hide one.
SELECT count(*) FROM (
    SELECT FROM {chunk} WHERE (metadata || '{{}}') @@ %(filter)s::jsonpath LIMIT %(limit)s) matching

-- name: vacuum
-- Dead rows go, also from the indexes, and the planner learns what is there.
VACUUM (ANALYZE) {chunk}, {embedding}

-- name: vacuum_freeze
-- Rows that are old enough need no transaction number any more.
VACUUM (FREEZE) {relation}

-- name: vacuum_freeze_all
-- The same of every table of the database, PostgreSQL's own too.
VACUUM (FREEZE)

-- name: reindex_hnsw
-- Built anew beside the old one, while searches and writers go on.
REINDEX INDEX CONCURRENTLY {hnsw}

-- name: drop_index
-- What an interrupted build left behind.
DROP INDEX CONCURRENTLY IF EXISTS {relation}

-- name: reset_autovacuum
-- As the server says for all tables.
ALTER TABLE {relation} RESET (autovacuum_enabled)

-- name: update_pgvector
-- The SQL of the version that is installed.
ALTER EXTENSION vector UPDATE

-- name: delete_unjoined
-- Embeddings that no chunk leads to.
DELETE FROM {embedding} e WHERE NOT EXISTS (SELECT FROM {chunk} c WHERE c.id = e.chunk_id)
