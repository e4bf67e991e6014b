-- The rules of a row, from constraints into the function and the triggers. A CHECK is read from its text and compiled again by each
-- statement, however often that is prepared: nine of them took a quarter of the time of an append of one event, which cannot break them.
-- The one that is kept is the limit of a payload, which is set by init() and read from it.

-- Both at once, and before anything else: an append that has one of them would otherwise be waited for by whoever it waits for. Within
-- less than deadlock_timeout, so that this gives way and not the append; init() tries again.
SET LOCAL lock_timeout = '900ms';
LOCK TABLE {schema}.streams, {schema}.events IN ACCESS EXCLUSIVE MODE;

-- The rule that a row breaks, by the name that its constraint had; NULL: none. The planner puts it into the statement that calls it.
CREATE FUNCTION {schema}.broken_rule(
    event_version integer, payload jsonb, metadata jsonb, occurred_at timestamptz, sequence bigint, retention_class text
) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN event_version <= 0 THEN 'events_event_version_check'
        WHEN jsonb_typeof(metadata) <> 'object' THEN 'events_metadata_object'
        WHEN occurred_at < '0001-01-02 00:00:00+00'::timestamptz OR occurred_at >= '9999-12-31 00:00:00+00'::timestamptz
            THEN 'events_occurred_finite'
        WHEN jsonb_typeof(payload) <> 'object' THEN 'events_payload_object'
        WHEN retention_class NOT IN ('hot', 'warm', 'cold') THEN 'events_retention_class_check'
        WHEN sequence <= 0 THEN 'events_sequence_check'
    END
$$;

-- Raises what the constraint raised. Strict: for NULL it is not even called.
CREATE FUNCTION {schema}.refuse_row(rule text) RETURNS text LANGUAGE plpgsql STRICT AS $$
BEGIN
    RAISE EXCEPTION 'the row breaks the rule "%"', rule
        USING ERRCODE = '23514', SCHEMA = TRIM(BOTH '"' FROM '{schema}'), TABLE = split_part(rule, '_', 1), CONSTRAINT = rule;
END $$;

-- What is set right under pgcdc.maintenance.
CREATE FUNCTION {schema}.keep_rules() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {schema}.refuse_row({schema}.broken_rule(
        NEW.event_version, NEW.payload, NEW.metadata, NEW.occurred_at, NEW.sequence, NEW.retention_class));
    RETURN NEW;
END $$;
CREATE TRIGGER keep_rules BEFORE UPDATE OF event_version, payload, metadata, occurred_at, sequence, retention_class ON {schema}.events
    FOR EACH ROW EXECUTE FUNCTION {schema}.keep_rules();
ALTER TABLE {schema}.events ENABLE ALWAYS TRIGGER keep_rules;
-- Under session_replication_role = replica, where the trigger that asks for them otherwise does not run.
CREATE TRIGGER keep_rules_of_copies BEFORE INSERT ON {schema}.events FOR EACH ROW EXECUTE FUNCTION {schema}.keep_rules();
ALTER TABLE {schema}.events ENABLE REPLICA TRIGGER keep_rules_of_copies;

-- As before, but for the rules.
CREATE OR REPLACE FUNCTION {schema}.advance_stream() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    stream {schema}.streams;
BEGIN
    -- An id of another transaction would be found in the order of commits where it is not; and where id was given, or taken
    -- before the stream's row was locked, ids would not rise within the stream as sequences do.
    NEW.xid := pg_current_xact_id();
    PERFORM {schema}.refuse_row({schema}.broken_rule(
        NEW.event_version, NEW.payload, NEW.metadata, NEW.occurred_at, NEW.sequence, NEW.retention_class));
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

-- As before, but for the rules, and a stream whose version was set below 0 by hand takes nothing.
CREATE OR REPLACE FUNCTION {schema}.append(
    p_stream text, p_type text, p_expected bigint, p_events jsonb, p_metadata jsonb, OUT status text, OUT version bigint
) LANGUAGE plpgsql AS $$
DECLARE
    n      integer := jsonb_array_length(p_events);
    seen   integer;
    last   bigint;
    said   text;
    stream {schema}.streams;
BEGIN
    IF p_events -> 0 ? 'id' THEN
        -- The row is locked before the ids are looked for: nobody else appends them meanwhile.
        IF p_expected = -1 THEN
            INSERT INTO {schema}.streams (stream_id, stream_type, version)
                VALUES (p_stream, coalesce(p_type, split_part(p_stream, '-', 1)), 0) ON CONFLICT (stream_id) DO NOTHING;
        END IF;
        SELECT * INTO stream FROM {schema}.streams AS s WHERE s.stream_id = p_stream FOR UPDATE;
        IF stream.version > 0 THEN
            SELECT count(*), max(x.sequence) INTO seen, last FROM {schema}.events AS x WHERE x.stream_id = p_stream
                AND x.event_id IN (SELECT (e ->> 'id')::uuid FROM jsonb_array_elements(p_events) AS u (e));
            IF seen < n AND stream.archived_through > coalesce((p_events -> 0 ->> 'looked')::bigint, 0) THEN
                status := 'archived';
                version := stream.version;
                RETURN;
            ELSIF seen > 0 THEN
                status := CASE WHEN seen = n THEN 'duplicate' ELSE 'partial' END;
                version := CASE WHEN seen = n THEN last ELSE stream.version END;
                RETURN;
            END IF;
        END IF;
    END IF;

    said := set_config('pgcdc.appending', 'on', true); -- the trigger that advances the stream has nothing to do
    IF p_expected IN (0, -1) THEN
        WITH advanced AS (
            INSERT INTO {schema}.streams AS s (stream_id, stream_type, version)
                VALUES (p_stream, coalesce(p_type, split_part(p_stream, '-', 1)), n)
                ON CONFLICT (stream_id) DO UPDATE SET version = s.version + n
                    WHERE p_expected = -1 AND s.version >= 0 AND s.state = 'open' AND (p_type IS NULL OR s.stream_type = p_type)
                RETURNING s.version, s.stream_type
        )
        INSERT INTO {schema}.events
                (stream_id, stream_type, event_type, event_version, payload, metadata, occurred_at, sequence, event_id, retention_class)
            SELECT p_stream, a.stream_type, e ->> 't', (e ->> 'v')::integer, e -> 'p',
                CASE WHEN e ? 'm' THEN p_metadata || (e -> 'm') ELSE p_metadata END,
                coalesce((e ->> 'at')::timestamptz, now()), a.version - n + o,
                coalesce((e ->> 'id')::uuid, gen_random_uuid()), coalesce(e ->> 'r', 'hot')
            FROM advanced AS a, jsonb_array_elements(p_events) WITH ORDINALITY AS u (e, o)
            WHERE {schema}.refuse_row({schema}.broken_rule((e ->> 'v')::integer, e -> 'p',
                CASE WHEN e ? 'm' THEN p_metadata || (e -> 'm') ELSE p_metadata END, (e ->> 'at')::timestamptz, o, e ->> 'r')) IS NULL;
    ELSE
        WITH advanced AS (
            UPDATE {schema}.streams AS s SET version = s.version + n
                WHERE s.stream_id = p_stream AND s.state = 'open' AND (p_type IS NULL OR s.stream_type = p_type)
                    AND (s.version = p_expected OR (p_expected = -2 AND s.version >= 0))
                RETURNING s.version, s.stream_type
        )
        INSERT INTO {schema}.events
                (stream_id, stream_type, event_type, event_version, payload, metadata, occurred_at, sequence, event_id, retention_class)
            SELECT p_stream, a.stream_type, e ->> 't', (e ->> 'v')::integer, e -> 'p',
                CASE WHEN e ? 'm' THEN p_metadata || (e -> 'm') ELSE p_metadata END,
                coalesce((e ->> 'at')::timestamptz, now()), a.version - n + o,
                coalesce((e ->> 'id')::uuid, gen_random_uuid()), coalesce(e ->> 'r', 'hot')
            FROM advanced AS a, jsonb_array_elements(p_events) WITH ORDINALITY AS u (e, o)
            WHERE {schema}.refuse_row({schema}.broken_rule((e ->> 'v')::integer, e -> 'p',
                CASE WHEN e ? 'm' THEN p_metadata || (e -> 'm') ELSE p_metadata END, (e ->> 'at')::timestamptz, o, e ->> 'r')) IS NULL;
    END IF;
    GET DIAGNOSTICS seen = ROW_COUNT;
    said := set_config('pgcdc.appending', 'off', true);
    IF seen > 0 THEN
        status := 'ok';
        IF p_expected >= 0 THEN
            version := p_expected + n;
        ELSE
            SELECT s.version INTO version FROM {schema}.streams AS s WHERE s.stream_id = p_stream;
        END IF;
        RETURN;
    END IF;

    SELECT * INTO stream FROM {schema}.streams AS s WHERE s.stream_id = p_stream;
    version := coalesce(stream.version, 0);
    status := CASE
        WHEN stream.state <> 'open' THEN 'closed'
        WHEN stream.stream_type <> p_type THEN 'type'
        ELSE 'conflict' END;
    -- Where there was no stream, there was no row to be locked: another call of the same append may have made it meanwhile.
    IF status = 'conflict' AND p_expected = 0 AND p_events -> 0 ? 'id' THEN
        SELECT count(*), max(x.sequence) INTO seen, last FROM {schema}.events AS x WHERE x.stream_id = p_stream
            AND x.event_id IN (SELECT (e ->> 'id')::uuid FROM jsonb_array_elements(p_events) AS u (e));
        IF seen = n THEN
            status := 'duplicate';
            version := last;
        END IF;
    END IF;
END $$;

-- An append advances a version, which is not one of the columns here. Wherever it begins from 0 or more, it stays so.
CREATE FUNCTION {schema}.keep_stream_rules() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    PERFORM {schema}.refuse_row(CASE WHEN NEW.version < 0 THEN 'streams_version_check' ELSE 'streams_state_check' END);
    RETURN NULL;
END $$;
CREATE TRIGGER keep_rules BEFORE INSERT OR UPDATE OF state ON {schema}.streams FOR EACH ROW
    WHEN (NEW.version < 0 OR NEW.state NOT IN ('open', 'closed', 'deleted')) EXECUTE FUNCTION {schema}.keep_stream_rules();
ALTER TABLE {schema}.streams ENABLE ALWAYS TRIGGER keep_rules;

-- Who may append or insert calls these with its own rights, also where functions are nobody's by default. They read and write nothing.
GRANT EXECUTE ON FUNCTION {schema}.broken_rule(integer, jsonb, jsonb, timestamptz, bigint, text), {schema}.refuse_row(text) TO PUBLIC;

ALTER TABLE {schema}.events
    DROP CONSTRAINT IF EXISTS events_event_version_check,
    DROP CONSTRAINT IF EXISTS events_sequence_check,
    DROP CONSTRAINT IF EXISTS events_retention_class_check,
    DROP CONSTRAINT IF EXISTS events_payload_object,
    DROP CONSTRAINT IF EXISTS events_metadata_object,
    DROP CONSTRAINT IF EXISTS events_occurred_finite;
ALTER TABLE {schema}.streams
    DROP CONSTRAINT IF EXISTS streams_version_check,
    DROP CONSTRAINT IF EXISTS streams_state_check;
