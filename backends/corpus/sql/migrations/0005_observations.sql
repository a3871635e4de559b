-- The effort that searches take, found by tuning: {backend: {band of filter selectivity: effort}}.
ALTER TABLE ragstone.collection ADD COLUMN efforts jsonb NOT NULL DEFAULT '{}';

-- A sample of the queries that users ask, bounded in rows and age. Recall is measured on them in the background.
CREATE TABLE ragstone.captured_query (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    captured_at timestamptz NOT NULL DEFAULT now(),
    backend text NOT NULL,
    embedding bytea NOT NULL,                           -- float32, little-endian
    filter jsonb,                                       -- as it was given
    top_k integer NOT NULL,
    effort integer,                                     -- null: the backend's default then
    ids text[] NOT NULL,                                -- of the hits, best first, and their scores
    scores double precision[] NOT NULL,
    exact boolean NOT NULL,
    sequence bigint NOT NULL,                           -- of the collection, about when it was searched
    search_ms double precision NOT NULL,
    measured_at timestamptz,                            -- null: recall is still to be measured
    recall double precision,                            -- recall@top_k; null where nothing matches
    distance_ratio double precision,
    matching bigint,                                    -- chunks that match the filter
    short boolean,                                      -- fewer hits than there were to find
    band text                                           -- of selectivity
);
CREATE INDEX captured_query_recent ON ragstone.captured_query (collection_id, captured_at);
CREATE INDEX captured_query_open ON ragstone.captured_query (captured_at) WHERE measured_at IS NULL;

-- What was measured, one row a period: hours that become days with age. `recalls` counts queries by recall, in
-- hundredths from 0 to 100, so that periods can be added up.
CREATE TABLE ragstone.recall_history (
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    backend text NOT NULL,
    band text NOT NULL,
    began_at timestamptz NOT NULL,
    span_s integer NOT NULL,
    queries bigint NOT NULL,
    recalls bigint[] NOT NULL,
    distance_ratio_sum double precision NOT NULL,
    PRIMARY KEY (collection_id, backend, band, began_at, span_s)
);

-- The last effort that tuning set for each band, and how searches went before: taken back where it made them worse.
CREATE TABLE ragstone.tuning (
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    backend text NOT NULL,
    band text NOT NULL,
    tuned_at timestamptz NOT NULL DEFAULT now(),
    effort integer NOT NULL,
    previous integer,                                   -- null: none was set
    target double precision NOT NULL,
    recall_before double precision NOT NULL,            -- the mean
    p99_limit_ms double precision,                      -- null: too few searches were known
    taken_back_at timestamptz,
    PRIMARY KEY (collection_id, backend, band)
);

-- Latencies by stage, in log-linear buckets that add up: minutes of one process that become hours and days of all.
CREATE TABLE ragstone.latency (
    began_at timestamptz NOT NULL,
    span_s integer NOT NULL,
    process uuid,                                       -- null once several have been added up
    collection text COLLATE "C" NOT NULL,               -- no reference: history outlives it
    backend text NOT NULL,
    stage text NOT NULL,
    outcome text NOT NULL,
    buckets integer[] NOT NULL,                         -- those that are not empty, and how many fell into each
    counts bigint[] NOT NULL,
    sum_ms double precision NOT NULL,
    max_ms double precision NOT NULL
);
CREATE INDEX latency_began ON ragstone.latency (span_s, began_at);

-- The slowest searches of late, with the plan that PostgreSQL had for them.
CREATE TABLE ragstone.slow_query (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    seen_at timestamptz NOT NULL DEFAULT now(),
    backend text NOT NULL,
    top_k integer NOT NULL,
    filter jsonb,
    effort integer,
    exact boolean NOT NULL,
    outcome text NOT NULL,
    timings_ms jsonb NOT NULL,
    plan jsonb
);
CREATE INDEX slow_query_recent ON ragstone.slow_query (collection_id, seen_at);
