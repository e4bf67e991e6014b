-- What a plain INSERT brings along: id and xid are not its own to say, and what no program could read again is refused.

CREATE OR REPLACE FUNCTION {schema}.advance_stream() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    stream {schema}.streams;
BEGIN
    -- An id of another transaction would be found in the order of commits where it is not; and where id was given, or taken
    -- before the stream's row was locked, ids would not rise within the stream as sequences do.
    NEW.xid := pg_current_xact_id();
    UPDATE {schema}.streams AS s SET version = NEW.sequence
        WHERE s.stream_id = NEW.stream_id AND s.version = NEW.sequence - 1 AND s.state = 'open' AND s.stream_type = NEW.stream_type;
    IF FOUND THEN
        NEW.id := nextval(pg_get_serial_sequence('{schema}.events', 'id'));
        RETURN NEW;
    END IF;
    IF NEW.sequence = 1 THEN
        INSERT INTO {schema}.streams (stream_id, stream_type, version) VALUES (NEW.stream_id, NEW.stream_type, 1)
            ON CONFLICT (stream_id) DO NOTHING;
        IF FOUND THEN
            NEW.id := nextval(pg_get_serial_sequence('{schema}.events', 'id'));
            RETURN NEW;
        END IF;
    END IF;
    SELECT * INTO stream FROM {schema}.streams AS s WHERE s.stream_id = NEW.stream_id;
    IF stream.state <> 'open' THEN
        RAISE EXCEPTION 'the stream is %', stream.state USING ERRCODE = '55000', CONSTRAINT = 'streams_state';
    ELSIF stream.version >= NEW.sequence THEN
        -- The unique index refuses it (23505), unless the event that had the number is archived.
        IF stream.archived_through >= NEW.sequence THEN
            RAISE EXCEPTION 'an archived event has this sequence' USING ERRCODE = '23505', CONSTRAINT = 'events_stream_sequence';
        END IF;
        RETURN NEW;
    ELSIF stream.stream_type <> NEW.stream_type THEN
        RAISE EXCEPTION 'the stream is of another type' USING ERRCODE = '22023', CONSTRAINT = 'streams_type';
    END IF;
    RAISE EXCEPTION 'sequence % would leave a hole: the stream is at version %', NEW.sequence, coalesce(stream.version, 0)
        USING ERRCODE = '55000', CONSTRAINT = 'streams_no_hole';
END $$;

-- What is there already is not looked at: a row that is like that stays what it is.
ALTER TABLE {schema}.events
    ADD CONSTRAINT events_payload_object CHECK (jsonb_typeof(payload) = 'object') NOT VALID,
    ADD CONSTRAINT events_metadata_object CHECK (jsonb_typeof(metadata) = 'object') NOT VALID,
    ADD CONSTRAINT events_occurred_finite CHECK (
        occurred_at >= '0001-01-02 00:00:00+00'::timestamptz AND occurred_at < '9999-12-31 00:00:00+00'::timestamptz
    ) NOT VALID;
DO $$ BEGIN
    IF NOT EXISTS (SELECT FROM {schema}.events) THEN
        ALTER TABLE {schema}.events VALIDATE CONSTRAINT events_payload_object,
            VALIDATE CONSTRAINT events_metadata_object, VALIDATE CONSTRAINT events_occurred_finite;
    END IF;
END $$;
