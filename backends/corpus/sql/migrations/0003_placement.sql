-- Where a collection belongs, and the recall that it is to have; null for the service's own settings.
ALTER TABLE ragstone.collection
    ADD COLUMN placement_threshold bigint CHECK (placement_threshold > 0), -- chunks above which it leaves pgvector
    ADD COLUMN recall_target double precision CHECK (recall_target BETWEEN 0 AND 1),
    ADD COLUMN pinned_backend text;                     -- moved here by hand: size does not move it away

-- building: nobody searches it, and writers do not wait for it. live: it follows the change sequence, serving or
-- not. dropping: nobody is sent to it any more; it goes when the longest query is over.
ALTER TABLE ragstone.vector_index
    ADD COLUMN state text NOT NULL DEFAULT 'live' CHECK (state IN ('building', 'live', 'dropping')),
    ADD COLUMN durable bigint,                          -- the number from which a restart needs the changes
    ADD COLUMN away_since timestamptz,                  -- it cannot be followed: writers do not wait for it
    ADD COLUMN away_reason text,
    ADD COLUMN changed_at timestamptz NOT NULL DEFAULT now();
CREATE INDEX vector_index_collection ON ragstone.vector_index (collection_id);

CREATE TABLE ragstone.move (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    source text NOT NULL,
    target text NOT NULL,
    by_hand boolean NOT NULL,                           -- somebody named the target: the collection stays there
    target_index_id bigint,                             -- the vector_index that is being built
    phase text NOT NULL DEFAULT 'building'
        CHECK (phase IN ('building', 'catching_up', 'verifying', 'done', 'failed', 'cancelled', 'rolled_back')),
    chunks_done bigint NOT NULL DEFAULT 0,
    chunks_total bigint NOT NULL DEFAULT 0,
    tries integer NOT NULL DEFAULT 0,
    cancel_wanted boolean NOT NULL DEFAULT false,
    problem text,                                       -- why it failed, or what the last try met
    verification jsonb,                                 -- counts, ids and recall, as measured before the flip
    build_s double precision,
    started_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    finished_at timestamptz
);
CREATE UNIQUE INDEX move_active ON ragstone.move (collection_id)
    WHERE phase IN ('building', 'catching_up', 'verifying');
