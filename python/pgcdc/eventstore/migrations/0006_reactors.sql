-- Where reactors were when the slot was given up, or was lost: what was committed since then they are given from the table of events.

CREATE TABLE {schema}.reactors (
    pipeline   text        NOT NULL,
    name       text        NOT NULL,
    commit_lsn pg_lsn      NOT NULL,           -- every transaction up to here is done
    base_id    bigint      NOT NULL DEFAULT 0, -- of what has no order of commits, up to this id, too
    kept_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (pipeline, name)
);
