-- name: create_job
-- For the collection as it is now: one that is made later under the same name is another.
INSERT INTO ragstone.job (collection_id, collection)
SELECT id, name FROM ragstone.collection WHERE name = %(collection)s
RETURNING id

-- name: add_file
-- One of the job's files, in full.
INSERT INTO ragstone.job_file (job_id, number, name, size_bytes, content)
VALUES (%(job_id)s, %(number)s, %(name)s, %(size_bytes)s, %(content)b)

-- name: forget_finished
-- What nobody will ask about any more.
DELETE FROM ragstone.job WHERE finished_at < now() - make_interval(secs => %(kept_s)s)

-- name: find_job
-- How a job stands.
SELECT id, collection, state, upserted, chunks, problem, created_at, started_at, finished_at
FROM ragstone.job WHERE id = %(job_id)s

-- name: job_files
-- How its files stand.
SELECT name, size_bytes, documents, done, problem, skipped, skipped_examples
FROM ragstone.job_file WHERE job_id = %(job_id)s ORDER BY number

-- name: take_job
-- The oldest that waits, or whose worker has not been heard of.
UPDATE ragstone.job j
SET state = 'running', worker = %(worker)s, tries = tries + 1, free_at = now() + make_interval(secs => %(lease_s)s),
    started_at = coalesce(started_at, now())
WHERE id = (
    SELECT id FROM ragstone.job WHERE state IN ('queued', 'running') AND free_at <= now()
    ORDER BY created_at, id LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING id, collection, tries, upserted, chunks, problem,
          (SELECT coalesce(sum(documents), 0)::bigint FROM ragstone.job_file f WHERE f.job_id = j.id AND done),
          EXISTS (SELECT 1 FROM ragstone.collection c WHERE c.id = j.collection_id)

-- name: waiting_files
-- What is still to be ingested, without its contents.
SELECT number, name FROM ragstone.job_file WHERE job_id = %(job_id)s AND NOT done ORDER BY number

-- name: file_content
-- What is to be ingested now.
SELECT content FROM ragstone.job_file WHERE job_id = %(job_id)s AND number = %(number)s

-- name: extend_lease
-- The worker is alive.
UPDATE ragstone.job SET free_at = now() + make_interval(secs => %(lease_s)s)
WHERE id = %(job_id)s AND worker = %(worker)s AND state = 'running'

-- name: record_job
-- How far it has come; what lies beyond where the last try ended has tries of its own.
UPDATE ragstone.job
SET upserted = %(upserted)s, chunks = %(chunks)s, problem = NULL, reached = greatest(reached, %(settled)s),
    tries = CASE WHEN %(finished)s OR %(settled)s > reached THEN 0 ELSE tries END
WHERE id = %(job_id)s AND worker = %(worker)s AND state = 'running'

-- name: record_file
-- A file that is done gives up its content. A later try begins the file anew, and its counts do not go back.
UPDATE ragstone.job_file
SET documents = greatest(documents, %(documents)s), skipped = greatest(skipped, %(skipped)s),
    problem = %(problem)s, skipped_examples = %(examples)s,
    done = %(done)s, content = CASE WHEN %(done)s THEN NULL ELSE content END
WHERE job_id = %(job_id)s AND number = %(number)s

-- name: end_job
-- Done or failed.
UPDATE ragstone.job
SET state = %(state)s, problem = %(problem)s, worker = NULL, finished_at = now()
WHERE id = %(job_id)s AND worker = %(worker)s AND state = 'running'

-- name: drop_contents
-- A failed job's files are not tried again.
UPDATE ragstone.job_file SET content = NULL WHERE job_id = %(job_id)s AND content IS NOT NULL

-- name: release_job
-- Back into the queue, for later; a try that was not the job's own fault does not count.
UPDATE ragstone.job
SET state = 'queued', worker = NULL, problem = %(problem)s, free_at = now() + make_interval(secs => %(delay_s)s),
    tries = CASE WHEN %(counts)s THEN tries ELSE greatest(tries - 1, 0) END
WHERE id = %(job_id)s AND worker = %(worker)s AND state = 'running'
