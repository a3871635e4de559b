-- name: export_snapshot
-- What other sessions need to see the same, and when that was.
SELECT pg_export_snapshot(), statement_timestamp()

-- name: exported_collections
-- All that users can name, in order.
SELECT c.dimension, c.metric, c.precision, c.id, c.name, c.stamp, c.sequence, c.documents, c.chunks, c.created_at,
       i.backend, i.id, c.placement_threshold, c.recall_target, c.pinned_backend, c.efforts, c.prompt
FROM ragstone.collection c JOIN ragstone.vector_index i ON i.collection_id = c.id AND i.serving
WHERE c.name NOT LIKE '.%' ORDER BY c.name

-- name: versions
-- What wrote the backup.
SELECT current_setting('server_version'), (SELECT extversion FROM pg_extension WHERE extname = 'vector')

-- name: read_in_order
-- By the key: a range of a table is read then without the rest of it, and needs no sort.
SELECT set_config('enable_seqscan', 'off', true), set_config('enable_bitmapscan', 'off', true),
       set_config('enable_sort', 'off', true), set_config('max_parallel_workers_per_gather', '0', true)

-- name: table_bytes
-- What the texts take, with what PostgreSQL keeps aside.
SELECT pg_table_size(%(table)s::regclass)

-- name: ids_after
-- The next ids in order, each as 8 bytes, big-endian.
SELECT string_agg(int8send(id), '') FROM (
    SELECT id FROM {chunk} WHERE id > %(after)s ORDER BY id LIMIT %(limit)s) following

-- name: copy_chunk_rows
-- The rows of a range of ids.
COPY (
    SELECT id, document_id, ordinal, title, text, metadata, start_at, end_at, content_hash FROM {chunk}
    WHERE id BETWEEN %(first)s AND %(last)s ORDER BY id)
TO STDOUT WITH (FORMAT BINARY)

-- name: copy_embedding_rows
-- The embeddings of a range of ids.
COPY (
    SELECT chunk_id, embedding FROM {embedding} WHERE chunk_id BETWEEN %(first)s AND %(last)s ORDER BY chunk_id)
TO STDOUT WITH (FORMAT BINARY)

-- name: record_run
-- How a backup or a verification ended.
INSERT INTO ragstone.backup_run
    (kind, repository, backup_id, depth, ok, problem, chunks, size_bytes, duration_s, finished_at)
VALUES (%(kind)s, %(repository)s, %(backup_id)s, %(depth)s, %(ok)s, %(problem)s, %(chunks)s, %(size_bytes)s,
        %(duration_s)s, %(finished_at)s)

-- name: latest_runs
-- Of each kind and depth the last one, and the last one that was well.
SELECT DISTINCT ON (kind, depth, ok)
       kind, repository, backup_id, depth, ok, problem, chunks, size_bytes, duration_s, finished_at
FROM ragstone.backup_run ORDER BY kind, depth, ok, finished_at DESC, id DESC

-- name: known_backups
-- Backups that this corpus remembers to have made.
SELECT backup_id FROM ragstone.backup_run WHERE kind = 'create' AND ok AND backup_id = ANY(%(backup_ids)s)

-- name: backup_lock
-- One backup at a time into one repository; the lock ends with its connection.
SELECT pg_try_advisory_lock(%(lock)s, hashtext(%(repository)s))
