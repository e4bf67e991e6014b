-- States as they were, which may be thrown away at any time.

CREATE TABLE {schema}.snapshots (
    stream_id   text        NOT NULL,
    projector   text        NOT NULL, -- the class of the state
    schema_hash text        NOT NULL, -- of that class: a snapshot of another shape is not read
    sequence    bigint      NOT NULL,
    state       bytea       NOT NULL,
    taken_at    timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (stream_id, projector)
);
