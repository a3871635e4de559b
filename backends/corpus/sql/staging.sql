-- name: restore_lock
-- One restore at a time under one name; the lock ends with its connection.
SELECT pg_try_advisory_lock(%(lock)s, hashtext(%(target)s))

-- name: find_restores
-- What was begun under a name, or long ago, and not brought to its end.
SELECT r.collection_id, c.name, r.target, r.source_checksum FROM ragstone.restore r
JOIN ragstone.collection c ON c.id = r.collection_id
WHERE r.target = %(target)s OR r.changed_at < now() - make_interval(secs => %(forgotten_s)s)

-- name: begin_restore
-- Beside the collection's row, in one transaction.
INSERT INTO ragstone.restore (collection_id, target, backup_id, source_checksum)
VALUES (%(collection_id)s, %(target)s, %(backup_id)s, %(source_checksum)s)

-- name: settle_collection
-- What the backup says of it. All earlier changes are forgotten: an index of it is built, not caught up.
UPDATE ragstone.collection
SET sequence = %(sequence)s, horizon = %(sequence)s, placement_threshold = %(placement_threshold)s,
    recall_target = %(recall_target)s, prompt = %(prompt)s, pinned_backend = %(pinned_backend)s
WHERE id = %(collection_id)s

-- name: record_shard
-- With its rows, in one transaction.
INSERT INTO ragstone.restored_shard (collection_id, file, documents, chunks)
VALUES (%(collection_id)s, %(file)s, %(documents)s, %(chunks)s)

-- name: touch_restore
-- It is still worked on.
UPDATE ragstone.restore SET changed_at = now() WHERE collection_id = %(collection_id)s

-- name: restored_shards
-- What need not be loaded again.
SELECT file, documents, chunks FROM ragstone.restored_shard WHERE collection_id = %(collection_id)s

-- name: keys_built
-- Whether the tables have their keys already.
SELECT keys_built FROM ragstone.restore WHERE collection_id = %(collection_id)s

-- name: mark_keys_built
-- With the keys, in one transaction.
UPDATE ragstone.restore SET keys_built = true, changed_at = now() WHERE collection_id = %(collection_id)s

-- name: count_restored
-- From now on writes keep count.
UPDATE ragstone.collection SET documents = %(documents)s, chunks = %(chunks)s WHERE id = %(collection_id)s

-- name: lock_names
-- In one order, before names change hands.
SELECT id, name FROM ragstone.collection WHERE name = ANY(%(names)s) ORDER BY id FOR UPDATE

-- name: rename_collection
-- Its tables are named by its id.
UPDATE ragstone.collection SET name = %(name)s WHERE id = %(collection_id)s

-- name: end_restore
-- It is a collection like any other now; what was loaded is forgotten with it.
DELETE FROM ragstone.restore WHERE collection_id = %(collection_id)s RETURNING collection_id

-- name: replaced_collections
-- What was replaced and not removed yet.
SELECT name FROM ragstone.collection WHERE name LIKE %(pattern)s ORDER BY name
