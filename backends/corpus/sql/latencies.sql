-- name: add
-- What one process counted in a minute.
INSERT INTO ragstone.latency
    (began_at, span_s, process, collection, backend, stage, outcome, buckets, counts, sum_ms, max_ms)
VALUES (%(began_at)s, %(span_s)s, %(process)s, %(collection)s, %(backend)s, %(stage)s, %(outcome)s,
        %(buckets)s, %(counts)s, %(sum_ms)s, %(max_ms)s)

-- name: since
-- Everything from a time on, added up. A span that has it in the middle counts whole.
WITH wanted AS (
    SELECT * FROM ragstone.latency
    WHERE (%(collection)s::text IS NULL OR collection = %(collection)s) AND (
        (span_s = 60 AND began_at > %(since)s - interval '1 minute')
        OR (span_s = 3600 AND began_at > %(since)s - interval '1 hour')
        OR (span_s = 86400 AND began_at > %(since)s - interval '1 day'))),
totals AS (
    SELECT collection, backend, stage, outcome, sum(sum_ms) AS sum_ms, max(max_ms) AS max_ms
    FROM wanted GROUP BY collection, backend, stage, outcome),
held AS (
    SELECT collection, backend, stage, outcome, bucket, sum(n)::bigint AS n
    FROM wanted, unnest(buckets, counts) AS part(bucket, n) GROUP BY collection, backend, stage, outcome, bucket),
sparse AS (
    SELECT collection, backend, stage, outcome,
           array_agg(bucket ORDER BY bucket) AS buckets, array_agg(n ORDER BY bucket) AS counts
    FROM held GROUP BY collection, backend, stage, outcome)
SELECT collection, backend, stage, outcome, buckets, counts, sum_ms, max_ms
FROM totals JOIN sparse USING (collection, backend, stage, outcome)
ORDER BY collection, backend, stage, outcome

-- name: try_thinning_lock
-- Until the end of the transaction.
SELECT pg_try_advisory_xact_lock(%(lock)s, 0)

-- name: due
-- The oldest span of one collection whose parts are all old enough to be added up.
SELECT date_bin(make_interval(secs => %(to_s)s), began_at, timestamptz '2000-01-01 00:00+00'), collection
FROM ragstone.latency
WHERE span_s = %(from_s)s AND began_at < date_bin(
    make_interval(secs => %(to_s)s), now() - make_interval(secs => %(age_s)s), timestamptz '2000-01-01 00:00+00')
ORDER BY began_at LIMIT 1

-- name: add_up
-- Make one row a key of all processes' rows of this span.
WITH old AS (
    DELETE FROM ragstone.latency
    WHERE span_s = %(from_s)s AND collection = %(collection)s
      AND began_at >= %(began_at)s AND began_at < %(began_at)s + make_interval(secs => %(to_s)s)
    RETURNING backend, stage, outcome, buckets, counts, sum_ms, max_ms),
totals AS (
    SELECT backend, stage, outcome, sum(sum_ms) AS sum_ms, max(max_ms) AS max_ms
    FROM old GROUP BY backend, stage, outcome),
held AS (
    SELECT backend, stage, outcome, bucket, sum(n)::bigint AS n
    FROM old, unnest(buckets, counts) AS part(bucket, n) GROUP BY backend, stage, outcome, bucket),
sparse AS (
    SELECT backend, stage, outcome,
           array_agg(bucket ORDER BY bucket) AS buckets, array_agg(n ORDER BY bucket) AS counts
    FROM held GROUP BY backend, stage, outcome)
INSERT INTO ragstone.latency
    (began_at, span_s, process, collection, backend, stage, outcome, buckets, counts, sum_ms, max_ms)
SELECT %(began_at)s, %(to_s)s, NULL, %(collection)s, backend, stage, outcome, buckets, counts, sum_ms, max_ms
FROM totals JOIN sparse USING (backend, stage, outcome)

-- name: forget
-- What is too old to be kept in any form, no more than the limit.
DELETE FROM ragstone.latency WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM ragstone.latency
    WHERE span_s = %(span_s)s AND began_at < now() - make_interval(secs => %(age_s)s) LIMIT %(limit)s))

-- name: add_slow
-- A slow search; nothing where its collection was deleted meanwhile.
INSERT INTO ragstone.slow_query
    (collection_id, backend, top_k, filter, effort, exact, outcome, timings_ms, plan)
SELECT id, %(backend)s, %(top_k)s, %(filter)s, %(effort)s, %(exact)s, %(outcome)s, %(timings_ms)s, %(plan)s
FROM ragstone.collection WHERE id = %(collection_id)s

-- name: forget_slow
-- All but the newest, and those that are too old.
DELETE FROM ragstone.slow_query
WHERE seen_at < now() - make_interval(secs => %(age_s)s)
   OR id IN (SELECT id FROM ragstone.slow_query ORDER BY id DESC OFFSET %(kept)s)

-- name: slow_since
-- The slowest first.
SELECT s.seen_at, c.name, s.backend, s.top_k, s.filter, s.effort, s.exact, s.outcome, s.timings_ms, s.plan
FROM ragstone.slow_query s JOIN ragstone.collection c ON c.id = s.collection_id
WHERE s.seen_at > %(since)s AND (%(collection)s::text IS NULL OR c.name = %(collection)s)
ORDER BY (s.timings_ms->>'total')::double precision DESC LIMIT %(limit)s
