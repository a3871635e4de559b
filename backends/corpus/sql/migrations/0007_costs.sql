-- What was spent, added up by day and by whom it was for. Tags come from callers, so their number in a day is bounded.
CREATE TABLE ragstone.spending (
    day date NOT NULL,                                  -- UTC
    tenant text COLLATE "C" NOT NULL,
    "user" text COLLATE "C" NOT NULL,
    feature text COLLATE "C" NOT NULL,
    collection text COLLATE "C" NOT NULL,               -- no reference: history outlives it
    stage text COLLATE "C" NOT NULL,                    -- embed, search or generate
    model text COLLATE "C" NOT NULL,                    -- of a search its backend
    priced boolean NOT NULL,                            -- whether all that was used had a price
    requests bigint NOT NULL,
    prompt_tokens bigint NOT NULL,                      -- without the cached ones
    cached_tokens bigint NOT NULL,
    completion_tokens bigint NOT NULL,
    embedding_tokens bigint NOT NULL,
    vectors bigint NOT NULL,
    gpu_s numeric NOT NULL,
    cost_usd numeric NOT NULL,
    PRIMARY KEY (day, tenant, "user", feature, collection, stage, model, priced)
);

-- What was used of each budget in a day; `value` is the tenant, user or feature, empty for a budget of all.
CREATE TABLE ragstone.budget_use (
    day date NOT NULL,                                  -- UTC
    budget text COLLATE "C" NOT NULL,
    value text COLLATE "C" NOT NULL,
    requests bigint NOT NULL DEFAULT 0,
    cost_usd numeric NOT NULL DEFAULT 0,
    warned boolean NOT NULL DEFAULT false,              -- whether the log has the day's warning
    PRIMARY KEY (day, budget, value)
) WITH (fillfactor = 50);                               -- counted on every request: updates stay in the page
