-- name: capture
-- One query as it was asked and answered; none where its collection is gone. Says the collection's number now. Nobody
-- waits for the disk: a crash may lose the last of a sample.
INSERT INTO ragstone.captured_query
    (collection_id, backend, embedding, filter, top_k, effort, ids, scores, exact, sequence, search_ms)
SELECT id, %(backend)s, %(embedding)s, %(filter)s, %(top_k)s, %(effort)s, %(ids)s, %(scores)s, %(exact)s,
       %(sequence)s, %(search_ms)s
FROM ragstone.collection, (SELECT set_config('synchronous_commit', 'off', true)) unhurried
WHERE id = %(collection_id)s
RETURNING (SELECT sequence FROM ragstone.collection WHERE id = %(collection_id)s)

-- name: prune_captured
-- What is more than is kept of a collection; the oldest go.
DELETE FROM ragstone.captured_query
WHERE collection_id = %(collection_id)s AND captured_at < (
    SELECT captured_at FROM ragstone.captured_query WHERE collection_id = %(collection_id)s
    ORDER BY captured_at DESC OFFSET %(kept)s - 1 LIMIT 1)

-- name: forget_captured
-- What is too old, of any collection.
DELETE FROM ragstone.captured_query WHERE captured_at < now() - make_interval(secs => %(kept_s)s)

-- name: unmeasured
-- The newest of each collection in turn.
SELECT {columns}
FROM (SELECT id, row_number() OVER (PARTITION BY collection_id ORDER BY captured_at DESC, id DESC) AS place
      FROM ragstone.captured_query WHERE measured_at IS NULL) placed
JOIN ragstone.captured_query q USING (id) JOIN ragstone.collection c ON c.id = q.collection_id
ORDER BY place, q.captured_at DESC, id DESC LIMIT %(limit)s

-- name: captured
-- The newest of one collection.
SELECT {columns}
FROM ragstone.captured_query q JOIN ragstone.collection c ON c.id = q.collection_id
WHERE q.collection_id = %(collection_id)s AND (%(band)s::text IS NULL OR q.band IS NULL OR q.band = %(band)s)
ORDER BY q.captured_at DESC, q.id DESC LIMIT %(limit)s

-- name: set_measured
-- What was found of a captured query; it may be pruned by now.
UPDATE ragstone.captured_query
SET measured_at = now(), recall = %(recall)s, distance_ratio = %(distance_ratio)s, matching = %(matching)s,
    band = %(band)s, short = %(short)s
WHERE id = %(id)s

-- name: add_to_history
-- One more query in its hour.
INSERT INTO ragstone.recall_history AS h
    (collection_id, backend, band, began_at, span_s, queries, recalls, distance_ratio_sum)
SELECT id, %(backend)s, %(band)s, date_trunc('hour', %(at)s::timestamptz, 'UTC'), 3600, 1, %(recalls)s,
       %(distance_ratio)s
FROM ragstone.collection WHERE id = %(collection_id)s
ON CONFLICT (collection_id, backend, band, began_at, span_s) DO UPDATE
SET queries = h.queries + EXCLUDED.queries,
    recalls = (SELECT array_agg(a + b ORDER BY place)
               FROM unnest(h.recalls, EXCLUDED.recalls) WITH ORDINALITY AS both_ (a, b, place)),
    distance_ratio_sum = h.distance_ratio_sum + EXCLUDED.distance_ratio_sum

-- name: thin_history
-- Hours that are old become days.
WITH hours AS (
    DELETE FROM ragstone.recall_history
    WHERE span_s = 3600 AND began_at < date_trunc('day', now() - make_interval(secs => %(hours_kept_s)s), 'UTC')
    RETURNING *),
days AS (
    SELECT collection_id, backend, band, date_trunc('day', began_at, 'UTC') AS began_at, sum(queries) AS queries,
           sum(distance_ratio_sum) AS distance_ratio_sum
    FROM hours GROUP BY 1, 2, 3, 4),
counts AS (
    SELECT collection_id, backend, band, began_at, array_agg(queries ORDER BY place) AS recalls
    FROM (SELECT collection_id, backend, band, date_trunc('day', began_at, 'UTC') AS began_at, place,
                 sum(count)::bigint AS queries
          FROM hours, unnest(recalls) WITH ORDINALITY AS counted (count, place) GROUP BY 1, 2, 3, 4, 5) placed
    GROUP BY 1, 2, 3, 4)
INSERT INTO ragstone.recall_history AS h
    (collection_id, backend, band, began_at, span_s, queries, recalls, distance_ratio_sum)
SELECT collection_id, backend, band, began_at, 86400, days.queries, counts.recalls, days.distance_ratio_sum
FROM days JOIN counts USING (collection_id, backend, band, began_at)
ON CONFLICT (collection_id, backend, band, began_at, span_s) DO UPDATE
SET queries = h.queries + EXCLUDED.queries,
    recalls = (SELECT array_agg(a + b ORDER BY place)
               FROM unnest(h.recalls, EXCLUDED.recalls) WITH ORDINALITY AS both_ (a, b, place)),
    distance_ratio_sum = h.distance_ratio_sum + EXCLUDED.distance_ratio_sum

-- name: history
-- Of one collection, oldest first.
SELECT backend, band, began_at, span_s, queries, recalls, distance_ratio_sum FROM ragstone.recall_history
WHERE collection_id = %(collection_id)s AND began_at + make_interval(secs => span_s) > %(since)s
ORDER BY began_at, backend, band

-- name: recent_recalls
-- Of each collection and band, the newest queries that were measured on the index that serves, since its effort was
-- last set.
SELECT name, band, backend, recall_target, array_agg(recall ORDER BY id), array_agg(search_ms ORDER BY id)
FROM (
    SELECT c.name, c.recall_target, q.band, q.backend, q.recall, q.search_ms, q.id,
           row_number() OVER (PARTITION BY q.collection_id, q.band ORDER BY q.captured_at DESC, q.id DESC) AS place
    FROM ragstone.captured_query q
    JOIN ragstone.collection c ON c.id = q.collection_id
    JOIN ragstone.vector_index i ON i.collection_id = c.id AND i.serving AND i.backend = q.backend
    LEFT JOIN ragstone.tuning t ON t.collection_id = c.id AND t.backend = q.backend AND t.band = q.band
    WHERE q.recall IS NOT NULL AND q.band IS NOT NULL AND c.name NOT LIKE '.%%'
      AND q.captured_at > now() - make_interval(secs => %(within_s)s)
      AND q.captured_at > coalesce(t.taken_back_at, t.tuned_at, '-infinity')) placed
WHERE place <= %(most)s
GROUP BY name, band, backend, recall_target ORDER BY name, band

-- name: set_effort
-- What searches of one band take from now on, and what they took before.
UPDATE ragstone.collection c
SET efforts = jsonb_set(
    c.efforts, ARRAY[%(backend)s::text],
    CASE WHEN %(effort)s::integer IS NULL THEN coalesce(c.efforts -> %(backend)s, '{{}}') - %(band)s::text
         ELSE coalesce(c.efforts -> %(backend)s, '{{}}') || jsonb_build_object(%(band)s::text, %(effort)s::integer) END)
FROM (SELECT id, efforts FROM ragstone.collection WHERE id = %(collection_id)s FOR UPDATE) before
WHERE c.id = before.id
RETURNING (before.efforts -> %(backend)s ->> %(band)s)::integer

-- name: remember_tuning
-- In place of what was known of an earlier one.
INSERT INTO ragstone.tuning
    (collection_id, backend, band, effort, previous, target, recall_before, p99_limit_ms)
VALUES (%(collection_id)s, %(backend)s, %(band)s, %(effort)s, %(previous)s, %(target)s, %(recall_before)s,
        %(p99_limit_ms)s)
ON CONFLICT (collection_id, backend, band) DO UPDATE
SET tuned_at = now(), effort = EXCLUDED.effort, previous = EXCLUDED.previous, target = EXCLUDED.target,
    recall_before = EXCLUDED.recall_before, p99_limit_ms = EXCLUDED.p99_limit_ms, taken_back_at = NULL

-- name: watched_tunings
-- Efforts that still hold, with what was measured of searches that took them.
SELECT t.collection_id, c.name, t.backend, t.band, t.effort, t.previous, t.target, t.recall_before, t.p99_limit_ms,
       array_remove(array_agg(q.recall), NULL), array_remove(array_agg(q.search_ms), NULL)
FROM ragstone.tuning t JOIN ragstone.collection c ON c.id = t.collection_id
LEFT JOIN ragstone.captured_query q
    ON q.collection_id = t.collection_id AND q.backend = t.backend AND q.band = t.band AND q.effort = t.effort
       AND NOT q.exact AND q.captured_at > t.tuned_at
WHERE t.taken_back_at IS NULL AND t.tuned_at > now() - make_interval(secs => %(watched_s)s)
  AND (c.efforts -> t.backend ->> t.band)::integer = t.effort
GROUP BY t.collection_id, t.backend, t.band, c.name

-- name: mark_taken_back
-- It is watched no more.
UPDATE ragstone.tuning SET taken_back_at = now()
WHERE collection_id = %(collection_id)s AND backend = %(backend)s AND band = %(band)s AND effort = %(effort)s
  AND taken_back_at IS NULL

-- name: measuring_lock
-- One process measures at a time; the lock ends with its connection.
SELECT pg_try_advisory_lock(%(lock)s, 0)
