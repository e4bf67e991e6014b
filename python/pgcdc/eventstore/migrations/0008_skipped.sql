-- Events that a generation of a projection could not take and went past (on_failure="dead_letter"), in the transaction of its place. The
-- package's dead letters are made of them, and are nothing but a list: an event is applied when it is taken out of here.

CREATE TABLE {schema}.skipped (
    name         text        NOT NULL,
    generation   integer     NOT NULL,
    stream_id    text        NOT NULL,
    sequence     bigint      NOT NULL,
    event_id     uuid        NOT NULL,
    commit_lsn   pg_lsn      NOT NULL, -- its position
    change_index bigint      NOT NULL,
    message      bytea       NOT NULL, -- its row, as dead letters keep it
    error_type   text        NOT NULL,
    error_text   text        NOT NULL,
    is_listed    boolean     NOT NULL DEFAULT false, -- whether there is, or was, a dead letter of it
    skipped_at   timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (name, generation, stream_id, sequence),
    FOREIGN KEY (name, generation) REFERENCES {schema}.projections ON DELETE CASCADE
);
