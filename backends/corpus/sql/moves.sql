-- name: begin_move
-- One at a time for each collection: the unique index says so.
INSERT INTO ragstone.move (collection_id, source, target, by_hand)
VALUES (%(collection_id)s, %(source)s, %(target)s, %(by_hand)s)
RETURNING id

-- name: find_move
-- One move.
SELECT m.id, m.collection_id, c.name, m.source, m.target, m.by_hand, m.target_index_id, m.phase, m.chunks_done, m.chunks_total,
       m.tries, m.cancel_wanted, m.problem, m.verification, m.build_s, m.started_at, m.updated_at, m.finished_at
FROM ragstone.move m JOIN ragstone.collection c ON c.id = m.collection_id WHERE m.id = %(move_id)s

-- name: latest_moves
-- The last move of each collection.
SELECT DISTINCT ON (c.name) m.id, m.collection_id, c.name, m.source, m.target, m.by_hand, m.target_index_id, m.phase,
       m.chunks_done, m.chunks_total, m.tries, m.cancel_wanted, m.problem, m.verification, m.build_s, m.started_at,
       m.updated_at, m.finished_at
FROM ragstone.move m JOIN ragstone.collection c ON c.id = m.collection_id
WHERE %(collection_id)s::bigint IS NULL OR m.collection_id = %(collection_id)s
ORDER BY c.name, m.id DESC

-- name: try_move
-- Another process begins to work on it.
UPDATE ragstone.move SET tries = tries + 1, updated_at = now() WHERE id = %(move_id)s

-- name: progress_move
-- How far it has come; says whether somebody wants it cancelled.
UPDATE ragstone.move
SET phase = %(phase)s, chunks_done = %(done)s, chunks_total = %(total)s, target_index_id = %(index_id)s,
    build_s = coalesce(%(build_s)s, build_s), updated_at = now()
WHERE id = %(move_id)s AND finished_at IS NULL RETURNING cancel_wanted

-- name: note_move
-- What the last try met.
UPDATE ragstone.move SET problem = %(problem)s, updated_at = now() WHERE id = %(move_id)s

-- name: end_move
-- It goes on no more.
UPDATE ragstone.move
SET phase = %(phase)s, problem = %(problem)s, verification = coalesce(%(verification)s, verification),
    updated_at = now(), finished_at = now()
WHERE id = %(move_id)s AND finished_at IS NULL RETURNING id

-- name: cancel_move
-- Whoever works on it sees this.
UPDATE ragstone.move SET cancel_wanted = true
WHERE collection_id = %(collection_id)s AND finished_at IS NULL RETURNING id

-- name: mark_rolled_back
-- The last move that was made is taken back.
UPDATE ragstone.move SET phase = 'rolled_back', updated_at = now()
WHERE id = (SELECT max(id) FROM ragstone.move WHERE collection_id = %(collection_id)s AND phase = 'done')

-- name: pin
-- Where somebody wants the collection, whatever its size; null lets size decide.
UPDATE ragstone.collection SET pinned_backend = %(backend)s WHERE id = %(collection_id)s

-- name: measured_rate
-- Chunks a second of the last build into this backend, and their dimension.
SELECT m.chunks_total / m.build_s, c.dimension
FROM ragstone.move m JOIN ragstone.collection c ON c.id = m.collection_id
WHERE m.target = %(target)s AND m.build_s > 0 AND m.chunks_total >= 1000 ORDER BY m.id DESC LIMIT 1

-- name: move_worked_on
-- Whether some process has the lock.
SELECT EXISTS (
    SELECT FROM pg_locks
    WHERE locktype = 'advisory' AND classid = %(lock)s AND objid = %(move_id)s AND granted
      AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))

-- name: move_lock
-- One process works on a move; the lock ends with its connection.
SELECT pg_try_advisory_lock(%(lock)s, %(move_id)s::integer)
