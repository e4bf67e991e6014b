-- The order of commits, and what projections and the archive keep about themselves.

-- Where the stream of a slot begins, and what was committed before: exactly what its exported snapshot shows. Of a slot that was made
-- beside another one there is no snapshot: what came before it the other one has brought.
CREATE TABLE {schema}.epochs (
    commit_lsn pg_lsn      PRIMARY KEY, -- the slot's consistent point
    snapshot   pg_snapshot,
    slot       text        UNIQUE,      -- while it is there
    noted_lsn  pg_lsn      NOT NULL,    -- up to here all transactions are in commits, by the consumer that does only that
    made_at    timestamptz NOT NULL DEFAULT now()
);

-- A row for each transaction that the stream has brought, written before, or together with, a position that is past it. What was committed
-- while there was no slot has the LSN before that of the epoch that followed, all of it.
CREATE TABLE {schema}.commits (
    xid        xid8    PRIMARY KEY,
    commit_lsn pg_lsn  NOT NULL,
    events     integer NOT NULL,
    first_id   bigint  NOT NULL,
    last_id    bigint  NOT NULL
) WITH (fillfactor = 100, autovacuum_vacuum_insert_scale_factor = 0.02, autovacuum_freeze_min_age = 0);
CREATE INDEX commits_lsn ON {schema}.commits (commit_lsn);

-- A row for each generation of a projection: the one that is live, one that is built beside it, those that were replaced.
CREATE TABLE {schema}.projections (
    name          text        NOT NULL,
    generation    integer     NOT NULL,
    version       integer     NOT NULL, -- of the class that has built it
    status        text        NOT NULL CHECK (status IN ('building', 'live', 'retired')),
    tables_schema text        NOT NULL, -- where its tables are
    tables        text[]      NOT NULL, -- their names
    commit_lsn    pg_lsn      NOT NULL DEFAULT '0/0', -- every transaction up to here is applied, and none behind it
    base_id       bigint      NOT NULL DEFAULT 0,     -- of what has no order of commits, up to this id, too
    passed_lsn    pg_lsn      NOT NULL DEFAULT '0/0', -- up to here the stream was followed, and all transactions are in commits
    events        bigint      NOT NULL DEFAULT 0,
    error         text,                 -- why it is parked
    updated_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, generation)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX projections_live ON {schema}.projections (name) WHERE status = 'live';

CREATE TABLE {schema}.archive_segments (
    segment      bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    uri          text        NOT NULL,
    rows         bigint      NOT NULL,
    min_id       bigint,
    max_id       bigint,
    min_lsn      pg_lsn,
    max_lsn      pg_lsn,
    min_occurred timestamptz,
    max_occurred timestamptz,
    sha256       bytea       NOT NULL,
    state        text        NOT NULL CHECK (state IN ('writing', 'verified', 'pruned')),
    created_at   timestamptz NOT NULL DEFAULT now()
);
