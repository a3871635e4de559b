-- name: unknown
-- The numbers, from 1, of those keys that no row has yet.
SELECT given.number
FROM unnest(%(day)s::date[], %(tenant)s::text[], %(user)s::text[], %(feature)s::text[], %(collection)s::text[],
            %(stage)s::text[], %(model)s::text[], %(priced)s::boolean[])
    WITH ORDINALITY AS given(day, tenant, "user", feature, collection, stage, model, priced, number)
WHERE NOT EXISTS (
    SELECT FROM ragstone.spending kept
    WHERE (kept.day, kept.tenant, kept."user", kept.feature, kept.collection, kept.stage, kept.model, kept.priced)
        = (given.day, given.tenant, given."user", given.feature, given.collection, given.stage, given.model,
           given.priced))
ORDER BY given.number

-- name: rows_of_day
-- How many rows a day has, counted up to the most.
SELECT count(*) FROM (SELECT FROM ragstone.spending WHERE day = %(day)s LIMIT %(most)s) AS counted

-- name: add
-- Add what was used; in the order of the keys, so that two writers cannot wait for each other.
INSERT INTO ragstone.spending AS kept
SELECT *
FROM unnest(%(day)s::date[], %(tenant)s::text[], %(user)s::text[], %(feature)s::text[], %(collection)s::text[],
            %(stage)s::text[], %(model)s::text[], %(priced)s::boolean[], %(requests)s::bigint[],
            %(prompt_tokens)s::bigint[], %(cached_tokens)s::bigint[], %(completion_tokens)s::bigint[],
            %(embedding_tokens)s::bigint[], %(vectors)s::bigint[], %(gpu_s)s::numeric[], %(cost_usd)s::numeric[])
ORDER BY 1, 2, 3, 4, 5, 6, 7, 8
ON CONFLICT (day, tenant, "user", feature, collection, stage, model, priced) DO UPDATE SET
    requests = kept.requests + excluded.requests,
    prompt_tokens = kept.prompt_tokens + excluded.prompt_tokens,
    cached_tokens = kept.cached_tokens + excluded.cached_tokens,
    completion_tokens = kept.completion_tokens + excluded.completion_tokens,
    embedding_tokens = kept.embedding_tokens + excluded.embedding_tokens,
    vectors = kept.vectors + excluded.vectors,
    gpu_s = kept.gpu_s + excluded.gpu_s,
    cost_usd = kept.cost_usd + excluded.cost_usd

-- name: added_up
-- From one day to another, by some of the keys, and by stage and whether it had a price.
SELECT {keys} stage, priced, sum(requests)::bigint, sum(prompt_tokens)::bigint, sum(cached_tokens)::bigint,
       sum(completion_tokens)::bigint, sum(embedding_tokens)::bigint, sum(vectors)::bigint, sum(gpu_s), sum(cost_usd)
FROM ragstone.spending
WHERE day BETWEEN %(since)s AND %(until)s
GROUP BY {keys} stage, priced
ORDER BY {keys} stage, priced

-- name: forget
-- Some of what is too old, of the table named.
DELETE FROM {table} WHERE ctid = ANY (ARRAY(SELECT ctid FROM {table} WHERE day < %(day)s LIMIT %(most)s))

-- name: commit_soon
-- Until the end of the transaction: a crash of PostgreSQL may forget what it did in the last half of a second.
SET LOCAL synchronous_commit = off

-- name: give_up_soon
-- Until the end of the transaction: what takes longer is given up.
SET LOCAL statement_timeout = {most_ms}

-- name: count_request
-- Count a request in each of its budgets; one that is used up gives no row. In the order of the keys, so that two
-- requests cannot wait for each other.
WITH asked AS MATERIALIZED (
    SELECT budget, {counted_value} AS value, requests_hard, usd_hard
    FROM unnest(%(budget)s::text[], %(value)s::text[], %(requests_hard)s::bigint[], %(usd_hard)s::numeric[])
        AS given(budget, value, requests_hard, usd_hard))
INSERT INTO ragstone.budget_use AS kept (day, budget, value, requests)
SELECT %(day)s, budget, value, 1 FROM asked
WHERE coalesce(requests_hard > 0, true) AND coalesce(usd_hard > 0, true)
ORDER BY budget, value
ON CONFLICT (day, budget, value) DO UPDATE SET requests = kept.requests + 1
WHERE (SELECT coalesce(kept.requests < requests_hard, true) AND coalesce(kept.cost_usd < usd_hard, true)
       FROM asked WHERE asked.budget = kept.budget)
RETURNING budget, value, requests, cost_usd, warned

-- name: give_back
-- Take a request back from each use that it was counted in, in the order of the keys, and never below none.
INSERT INTO ragstone.budget_use AS kept (day, budget, value)
SELECT day, budget, value FROM unnest(%(day)s::date[], %(budget)s::text[], %(value)s::text[]) AS given(day, budget, value)
ORDER BY budget, value
ON CONFLICT (day, budget, value) DO UPDATE SET requests = greatest(kept.requests - 1, 0)

-- name: budget_uses
-- What was used of budgets.
WITH asked AS (
    SELECT budget, {counted_value} AS value
    FROM unnest(%(budget)s::text[], %(value)s::text[]) AS given(budget, value))
SELECT asked.budget, asked.value, coalesce(requests, 0), coalesce(cost_usd, 0), coalesce(warned, false)
FROM asked LEFT JOIN ragstone.budget_use AS kept
    ON kept.day = %(day)s AND kept.budget = asked.budget AND kept.value = asked.value

-- name: most_used
-- Of one budget those who used most of it: by requests, or by what they cost.
SELECT budget, value, requests, cost_usd, warned FROM ragstone.budget_use
WHERE day = %(day)s AND budget = %(budget)s
ORDER BY CASE WHEN %(by_cost)s THEN cost_usd ELSE requests END DESC, value
LIMIT %(limit)s

-- name: charge
-- Add what requests cost to their budgets, in the order of the keys.
WITH spent AS (
    SELECT day, budget, {counted_value} AS value, cost_usd
    FROM unnest(%(day)s::date[], %(budget)s::text[], %(value)s::text[], %(cost_usd)s::numeric[])
        AS given(day, budget, value, cost_usd))
INSERT INTO ragstone.budget_use AS kept (day, budget, value, cost_usd)
SELECT day, budget, value, sum(cost_usd) FROM spent GROUP BY day, budget, value ORDER BY day, budget, value
ON CONFLICT (day, budget, value) DO UPDATE SET cost_usd = kept.cost_usd + excluded.cost_usd

-- name: mark_warned
-- Whoever gets a row is the first to warn of this budget in this day.
INSERT INTO ragstone.budget_use AS kept (day, budget, value, warned)
SELECT %(day)s, budget, {counted_value}, true FROM (SELECT %(budget)s::text, %(value)s::text) AS given(budget, value)
ON CONFLICT (day, budget, value) DO UPDATE SET warned = true WHERE NOT kept.warned
RETURNING true

-- name: counted_value
-- Whose use it is counted as: beyond so many in a day, all others share what one of them may use.
CASE WHEN given.value = '' OR EXISTS (
        SELECT FROM ragstone.budget_use known
        WHERE known.day = {day} AND known.budget = given.budget AND known.value = given.value)
    OR (SELECT count(*) FROM (
            SELECT FROM ragstone.budget_use known
            WHERE known.day = {day} AND known.budget = given.budget LIMIT %(most)s) AS counted) < %(most)s
    THEN given.value ELSE %(other)s END
