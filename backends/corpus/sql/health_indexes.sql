-- name: behind
-- What comes later than a number: changes, chunks and deletes, and how long the oldest of them has waited.
WITH later AS (
    SELECT block, chunks, committed_at FROM ragstone.change
    WHERE collection_id = %(collection_id)s AND sequence > %(applied)s)
SELECT c.sequence - %(applied)s,
       coalesce((SELECT sum(chunks) FROM later), 0)::bigint + (
           SELECT count(*) FROM ragstone.tombstone t JOIN later l ON l.block = t.block WHERE t.collection_id = c.id),
       coalesce(extract(epoch FROM now() - (SELECT min(committed_at) FROM later)), 0)::double precision,
       %(applied)s < c.horizon,
       c.chunks
FROM ragstone.collection c WHERE c.id = %(collection_id)s

-- name: followed
-- Whether some process holds an index's follow lock.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND classid = %(lock)s AND objid = %(index_id)s AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: counts
-- The counter that searches and placement go by, and what the tables hold, in one view.
SELECT c.chunks, (SELECT count(*) FROM {chunk}), (SELECT count(*) FROM {embedding})
FROM ragstone.collection c WHERE c.id = %(collection_id)s

-- name: usual_top_k
-- What nearly all searches of the last day asked for; null where none was captured.
SELECT percentile_disc(0.95) WITHIN GROUP (ORDER BY top_k) FROM ragstone.captured_query
WHERE collection_id = %(collection_id)s AND backend = %(backend)s AND captured_at > now() - interval '1 day'

-- name: forget_chunks
-- Chunks that the corpus does not have are deletes to whoever has them all the same.
WITH forgotten AS (
    INSERT INTO ragstone.tombstone (collection_id, block, chunk_id)
    SELECT %(collection_id)s, %(block)s, given.id FROM unnest(%(ids)s::bigint[]) AS given (id)
    WHERE NOT EXISTS (SELECT FROM {chunk} c WHERE c.id = given.id) RETURNING chunk_id)
SELECT count(*) FROM forgotten

-- name: left_restores
-- Restores that were begun and not ended, and whether some process works under that name now.
SELECT r.collection_id, c.name, r.target, r.backup_id, c.chunks,
       extract(epoch FROM now() - r.changed_at)::double precision,
       EXISTS (
           SELECT FROM pg_locks
           WHERE locktype = 'advisory' AND classid = %(lock)s AND granted
             AND objid::bigint = hashtext(r.target)::bigint & 4294967295
             AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))
FROM ragstone.restore r JOIN ragstone.collection c ON c.id = r.collection_id
ORDER BY r.target
