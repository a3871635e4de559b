-- Files that were sent in, until they are ingested: an acknowledged job survives whatever happens to the service.
CREATE TABLE ragstone.job (
    id uuid PRIMARY KEY DEFAULT gen_random_uuid(),
    collection_id bigint NOT NULL,                      -- no reference: a job outlives its collection, to say so
    collection text COLLATE "C" NOT NULL,
    state text NOT NULL DEFAULT 'queued' CHECK (state IN ('queued', 'running', 'done', 'failed')),
    free_at timestamptz NOT NULL DEFAULT now(),         -- from then on a worker may take it: while running, its lease
    worker text,
    tries integer NOT NULL DEFAULT 0,                   -- since it last came further than ever before
    reached bigint NOT NULL DEFAULT 0,                  -- documents settled, in the try that came furthest
    upserted bigint NOT NULL DEFAULT 0,
    chunks bigint NOT NULL DEFAULT 0,
    problem text,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    finished_at timestamptz
);
CREATE INDEX job_open ON ragstone.job (free_at) WHERE state IN ('queued', 'running');

CREATE TABLE ragstone.job_file (
    job_id uuid NOT NULL REFERENCES ragstone.job ON DELETE CASCADE,
    number integer NOT NULL,
    name text NOT NULL,
    size_bytes bigint NOT NULL,
    content bytea,                                      -- null once it is not needed any more
    done boolean NOT NULL DEFAULT false,
    documents bigint NOT NULL DEFAULT 0,                -- read from it and settled
    problem text,                                       -- why the rest of it could not be read
    skipped bigint NOT NULL DEFAULT 0,
    skipped_examples jsonb NOT NULL DEFAULT '[]',
    PRIMARY KEY (job_id, number)
);
