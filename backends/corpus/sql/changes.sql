-- name: begin_write
-- Writers share the lock; one that met a conflict takes it alone, so that it must succeed.
SELECT CASE WHEN %(alone)s THEN pg_advisory_xact_lock(%(lock)s, %(collection_id)s::integer)
            ELSE pg_advisory_xact_lock_shared(%(lock)s, %(collection_id)s::integer) END

-- name: take_block
-- A block of chunk ids that no other transaction has.
SELECT nextval('ragstone.block')

-- name: tail_size
-- Chunks and deletes that the slowest following index has yet to apply; one that is away is not waited for.
WITH slowest AS (
    SELECT min(applied) AS applied FROM ragstone.vector_index
    WHERE collection_id = %(collection_id)s AND applied IS NOT NULL AND state = 'live' AND away_since IS NULL),
later AS (
    SELECT c.block, c.chunks FROM ragstone.change c, slowest s
    WHERE c.collection_id = %(collection_id)s AND c.sequence > s.applied)
SELECT coalesce((SELECT sum(chunks) FROM later), 0)::bigint + (
    SELECT count(*) FROM ragstone.tombstone t JOIN later l ON l.block = t.block
    WHERE t.collection_id = %(collection_id)s)

-- name: document_states
-- Of each document that is there: what its chunks were made from, and its metadata.
SELECT document_id, content_hash, metadata FROM {chunk}
WHERE document_id = ANY(%(ids)s) AND ordinal <= 1

-- name: lock_document_states
-- The same, with every chunk locked in one order, so that writers cannot deadlock.
SELECT document_id, content_hash, metadata, ordinal FROM {chunk}
WHERE document_id = ANY(%(ids)s) ORDER BY document_id, greatest(ordinal, 1) FOR UPDATE

-- name: copy_chunks
-- Rows as binary blocks.
COPY {chunk} (id, document_id, ordinal, title, text, metadata, start_at, end_at, content_hash)
FROM STDIN WITH (FORMAT BINARY)

-- name: copy_embeddings
-- Rows as binary blocks.
COPY {embedding} (chunk_id, embedding) FROM STDIN WITH (FORMAT BINARY)

-- name: delete_documents
-- By id, every chunk locked in one order; remembered for the indexes that follow. Of an array that a subquery makes,
-- the planner does not know the length, and takes the key: one scan of it, where a join would search it row by row.
WITH locked AS (SELECT id FROM {chunk} WHERE document_id = ANY(%(ids)s::text[])
                ORDER BY document_id, greatest(ordinal, 1) FOR UPDATE),
     gone AS (DELETE FROM {chunk} WHERE id = ANY(ARRAY(SELECT id FROM locked)) RETURNING id, ordinal),
     bare AS (DELETE FROM {embedding} WHERE chunk_id = ANY(ARRAY(SELECT id FROM gone))),
     remembered AS (INSERT INTO ragstone.tombstone SELECT %(collection_id)s, %(block)s, id FROM gone)
SELECT count(*) FILTER (WHERE ordinal <= 1), count(*) FROM gone

-- name: delete_matching
-- By filter; all chunks of a document carry its metadata.
WITH gone AS (DELETE FROM {chunk} WHERE metadata @@ %(filter)s::jsonpath RETURNING id, ordinal),
     bare AS (DELETE FROM {embedding} USING gone WHERE chunk_id = gone.id),
     remembered AS (INSERT INTO ragstone.tombstone SELECT %(collection_id)s, %(block)s, id FROM gone)
SELECT count(*) FILTER (WHERE ordinal <= 1), count(*) FROM gone

-- name: replace_metadata
-- A chunk is immutable: the old rows go, and new ids take their text and embedding along.
WITH given AS (SELECT * FROM unnest(%(ids)s::text[], %(metadata)s::jsonb[]) AS g (document_id, metadata)),
     gone AS (DELETE FROM {chunk} c USING given g WHERE c.document_id = g.document_id
              RETURNING c.*, g.metadata AS replacement),
     numbered AS (SELECT *, %(first_id)s + row_number() OVER (ORDER BY document_id, ordinal) - 1 AS new_id FROM gone),
     bare AS (DELETE FROM {embedding} USING gone WHERE chunk_id = gone.id RETURNING chunk_id, embedding),
     moved AS (INSERT INTO {embedding} SELECT n.new_id, b.embedding FROM numbered n JOIN bare b ON b.chunk_id = n.id),
     remembered AS (INSERT INTO ragstone.tombstone SELECT %(collection_id)s, %(block)s, id FROM gone)
SELECT new_id, document_id, ordinal, title, text, replacement, start_at, end_at, content_hash FROM numbered

-- name: insert_chunks
-- The second half of replace_metadata: one statement cannot delete and insert the same unique key.
INSERT INTO {chunk} (id, document_id, ordinal, title, text, metadata, start_at, end_at, content_hash)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s)

-- name: number_change
-- Last in the transaction, and held to its end: numbers are given in the order of the commits.
WITH numbered AS (
    UPDATE ragstone.collection
    SET sequence = sequence + 1, documents = documents + %(documents)s, chunks = chunks + %(chunks)s
    WHERE id = %(collection_id)s RETURNING sequence)
INSERT INTO ragstone.change (collection_id, sequence, block, chunks, committed_at)
SELECT %(collection_id)s, n.sequence, b.block, b.chunks, clock_timestamp()
FROM numbered n, unnest(%(blocks)s::bigint[], %(block_chunks)s::bigint[]) AS b (block, chunks)
RETURNING sequence

-- name: sequence_and_horizon
-- Where the collection stands in this snapshot.
SELECT sequence, horizon FROM ragstone.collection WHERE id = %(collection_id)s

-- name: changes_after
-- Numbers and blocks of what came later, oldest first, those that begin within so many chunks.
SELECT sequence, blocks FROM (
    SELECT sequence, array_agg(block ORDER BY block) AS blocks,
           sum(sum(chunks)) OVER (ORDER BY sequence) - sum(chunks) AS earlier
    FROM ragstone.change WHERE collection_id = %(collection_id)s AND sequence > %(after)s
    GROUP BY sequence) later
WHERE earlier < %(limit)s ORDER BY sequence LIMIT 1000

-- name: chunks_of_block
-- What a change wrote and a later one has not deleted.
SELECT e.chunk_id, e.embedding, c.metadata FROM {chunk} c JOIN {embedding} e ON e.chunk_id = c.id
WHERE c.id >= %(block)s::bigint << 20 AND c.id < (%(block)s::bigint + 1) << 20 ORDER BY c.id

-- name: deletes_of_blocks
-- What a change deleted.
SELECT chunk_id FROM ragstone.tombstone
WHERE collection_id = %(collection_id)s AND block = ANY(%(blocks)s) ORDER BY chunk_id

-- name: all_chunks
-- The whole collection, for a build.
SELECT e.chunk_id, e.embedding, c.metadata FROM {chunk} c JOIN {embedding} e ON e.chunk_id = c.id

-- name: forget_changes
-- Up to what no index needs again, also after a restart; in the corpus itself everything is applied at once.
WITH reached AS (
    SELECT c.id, least(c.sequence, min(coalesce(i.durable, i.applied))) AS horizon
    FROM ragstone.collection c
    LEFT JOIN ragstone.vector_index i ON i.collection_id = c.id AND i.state <> 'dropping'
    WHERE c.id = %(collection_id)s GROUP BY c.id),
forgotten AS (
    DELETE FROM ragstone.change ch USING reached r
    WHERE ch.collection_id = r.id AND ch.sequence <= r.horizon RETURNING ch.block),
bare AS (
    DELETE FROM ragstone.tombstone t USING forgotten f
    WHERE t.collection_id = %(collection_id)s AND t.block = f.block)
UPDATE ragstone.collection c SET horizon = greatest(c.horizon, r.horizon) FROM reached r WHERE c.id = r.id
