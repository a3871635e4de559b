-- Each write transaction takes a block of 2^20 chunk ids, so that it can load its rows before it knows its number
-- in the change sequence: the number is given last, and maps to the block.
CREATE SEQUENCE ragstone.block AS bigint;

CREATE TABLE ragstone.collection (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, -- never reused
    name text COLLATE "C" NOT NULL UNIQUE,
    dimension integer NOT NULL CHECK (dimension > 0),
    metric text NOT NULL,
    precision text NOT NULL,
    stamp jsonb,                                        -- what made the embeddings; null for the user's own
    sequence bigint NOT NULL DEFAULT 0,                 -- the number of the last committed change
    horizon bigint NOT NULL DEFAULT 0,                  -- changes up to this number are forgotten
    documents bigint NOT NULL DEFAULT 0 CHECK (documents >= 0),
    chunks bigint NOT NULL DEFAULT 0 CHECK (chunks >= 0),
    created_at timestamptz NOT NULL DEFAULT now()
) WITH (fillfactor = 50); -- one update per write stays on its page

CREATE TABLE ragstone.change (
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    sequence bigint NOT NULL,
    block bigint NOT NULL,
    chunks bigint NOT NULL,
    committed_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (collection_id, sequence, block)
);

CREATE TABLE ragstone.tombstone (
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    block bigint NOT NULL,                              -- of the transaction that deleted the chunk
    chunk_id bigint NOT NULL,
    PRIMARY KEY (collection_id, block, chunk_id)
);

CREATE TABLE ragstone.vector_index (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    collection_id bigint NOT NULL REFERENCES ragstone.collection ON DELETE CASCADE,
    backend text NOT NULL,
    serving boolean NOT NULL,                           -- the one that searches go to
    applied bigint,                                     -- null where each copy knows its own, or in the corpus
    created_at timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX vector_index_serving ON ragstone.vector_index (collection_id) WHERE serving;
