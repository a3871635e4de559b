-- name: create_collection
-- One row; the tables follow in the same transaction.
INSERT INTO ragstone.collection (name, dimension, metric, precision, stamp)
VALUES (%(name)s, %(dimension)s, %(metric)s, %(precision)s, %(stamp)s)
RETURNING id

-- name: create_chunk_table
-- Text and metadata. A document is the rows of its id; its first row has ordinal 0 (its only chunk) or 1.
CREATE TABLE {chunk} (
    id bigint NOT NULL,
    document_id text COLLATE "C" NOT NULL,
    ordinal integer NOT NULL,
    title text NOT NULL,
    text text NOT NULL,
    metadata jsonb NOT NULL,
    start_at integer NOT NULL,
    end_at integer NOT NULL,
    content_hash bytea
)

-- name: create_chunk_key
-- Beside the table, since a restore makes it after the load.
ALTER TABLE {chunk} ADD PRIMARY KEY (id)

-- name: create_document_key
-- A document that has one chunk (ordinal 0) and one of the same id that has several (1 ...) cannot both be there.
CREATE UNIQUE INDEX ON {chunk} (document_id, greatest(ordinal, 1))

-- name: create_embedding_table
-- Narrow and in line: in one wide table the embeddings go to TOAST and an exact scan is four times slower.
CREATE TABLE {embedding} (chunk_id bigint NOT NULL, embedding {type} STORAGE PLAIN NOT NULL)

-- name: create_embedding_key
-- Beside the table, since a restore makes it after the load.
ALTER TABLE {embedding} ADD PRIMARY KEY (chunk_id)

-- name: register_index
-- The backend that a new collection is served by.
INSERT INTO ragstone.vector_index (collection_id, backend, serving) VALUES (%(collection_id)s, %(backend)s, true)

-- name: find_collection
-- What is known of a collection by its name.
SELECT c.dimension, c.metric, c.precision, c.id, c.name, c.stamp, c.sequence, c.documents, c.chunks, c.created_at,
       i.backend, i.id, c.placement_threshold, c.recall_target, c.pinned_backend, c.efforts, c.prompt
FROM ragstone.collection c JOIN ragstone.vector_index i ON i.collection_id = c.id AND i.serving
WHERE c.name = %(name)s

-- name: configure_collection
-- What it has of its own: the columns that are named, each to its value.
UPDATE ragstone.collection SET
    placement_threshold = CASE WHEN 'placement_threshold' = ANY(%(named)s::text[])
        THEN %(placement_threshold)s ELSE placement_threshold END,
    recall_target = CASE WHEN 'recall_target' = ANY(%(named)s::text[])
        THEN %(recall_target)s ELSE recall_target END,
    prompt = CASE WHEN 'prompt' = ANY(%(named)s::text[]) THEN %(prompt)s ELSE prompt END
WHERE name = %(name)s

-- name: list_collections
-- Names that users can give, in order.
SELECT name FROM ragstone.collection WHERE name NOT LIKE '.%' ORDER BY name

-- name: cancel_builders
-- A build of an index would wait for the drop, and the drop for the build.
SELECT pg_cancel_backend(pid) FROM pg_locks
WHERE locktype = 'advisory' AND classid = %(lock)s AND objid = %(collection_id)s AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND pid <> pg_backend_pid()

-- name: drop_tables
-- First the tables, which waits for writers, then the row: the order in which writers lock them.
DROP TABLE {chunk}, {embedding}

-- name: delete_collection
-- Its changes, tombstones and indexes go with it.
WITH forgotten AS (DELETE FROM ragstone.tombstone WHERE collection_id = %(collection_id)s)
DELETE FROM ragstone.collection WHERE id = %(collection_id)s

-- name: identity
-- Whose corpus this is: a restored or cloned one differs in one of the two. A server can hold one in each database.
SELECT s.system_identifier # (d.oid::bigint << 32), c.timeline_id
FROM pg_control_system() s, pg_control_checkpoint() c, pg_database d WHERE d.datname = current_database()
