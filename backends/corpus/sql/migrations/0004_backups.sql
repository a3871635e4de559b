-- A collection whose name begins with a dot is being restored, or was replaced a moment ago: no user can name it.
CREATE TABLE ragstone.restore (
    collection_id bigint PRIMARY KEY REFERENCES ragstone.collection ON DELETE CASCADE, -- staged under a dotted name
    target text COLLATE "C" NOT NULL,                   -- the name that it is to have
    backup_id text NOT NULL,
    source_checksum text NOT NULL,                      -- of the backup's manifest and the collection's name there
    keys_built boolean NOT NULL DEFAULT false,          -- loaded, and its tables have their keys
    changed_at timestamptz NOT NULL DEFAULT now()
);

-- What a restore need not load again after it was interrupted: committed with the rows themselves.
CREATE TABLE ragstone.restored_shard (
    collection_id bigint NOT NULL REFERENCES ragstone.restore ON DELETE CASCADE,
    file text NOT NULL,
    documents bigint NOT NULL,
    chunks bigint NOT NULL,
    PRIMARY KEY (collection_id, file)
);

-- How backups and their verifications ended, for whoever watches. A corpus that was rewound to before a backup does
-- not know it, and so does not take an incremental one on top of it.
CREATE TABLE ragstone.backup_run (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    kind text NOT NULL CHECK (kind IN ('create', 'verify')),
    repository text NOT NULL,
    backup_id text,
    depth text,                                         -- of a verification
    ok boolean NOT NULL,
    problem text,
    chunks bigint NOT NULL,
    size_bytes bigint NOT NULL,
    duration_s double precision NOT NULL,
    finished_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX backup_run_kind ON ragstone.backup_run (kind, finished_at);
