-- What projections and the archive keep about themselves. A projection has a row for each generation: the one that is live, and the
-- one that is built beside it.

CREATE TABLE {schema}.projections (
    name            text        NOT NULL,
    generation      integer     NOT NULL,
    status          text        NOT NULL CHECK (status IN ('building', 'catching_up', 'live', 'parked', 'retired')),
    commit_lsn      pg_lsn      NOT NULL DEFAULT '0/0',
    replay_snapshot text,
    replay_after_id bigint,
    code_hash       text,
    updated_at      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, generation)
) WITH (fillfactor = 50);
CREATE UNIQUE INDEX projections_live ON {schema}.projections (name) WHERE status = 'live';

CREATE TABLE {schema}.dead_letters (
    projection text        NOT NULL,
    generation integer     NOT NULL,
    event_id   uuid        NOT NULL,
    commit_lsn pg_lsn      NOT NULL,
    error      text        NOT NULL,
    attempts   integer     NOT NULL DEFAULT 1,
    first_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (projection, generation, event_id)
);

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
