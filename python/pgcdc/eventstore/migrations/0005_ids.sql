-- As before, but ids are looked for whatever is expected: who has lost the answer to an append, has read the stream again, and repeats it
-- with the version that it has now, must not append it twice. Whoever has looked for them in the archive says up to which version that
-- was, so that they are not looked for there again: p_events: [{…, "looked": version?}, …]
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
                    WHERE p_expected = -1 AND s.state = 'open' AND (p_type IS NULL OR s.stream_type = p_type)
                RETURNING s.version, s.stream_type
        )
        INSERT INTO {schema}.events
                (stream_id, stream_type, event_type, event_version, payload, metadata, occurred_at, sequence, event_id, retention_class)
            SELECT p_stream, a.stream_type, e ->> 't', (e ->> 'v')::integer, e -> 'p',
                CASE WHEN e ? 'm' THEN p_metadata || (e -> 'm') ELSE p_metadata END,
                coalesce((e ->> 'at')::timestamptz, now()), a.version - n + o,
                coalesce((e ->> 'id')::uuid, gen_random_uuid()), coalesce(e ->> 'r', 'hot')
            FROM advanced AS a, jsonb_array_elements(p_events) WITH ORDINALITY AS u (e, o);
    ELSE
        WITH advanced AS (
            UPDATE {schema}.streams AS s SET version = s.version + n
                WHERE s.stream_id = p_stream AND s.state = 'open' AND (p_type IS NULL OR s.stream_type = p_type)
                    AND (s.version = p_expected OR p_expected = -2)
                RETURNING s.version, s.stream_type
        )
        INSERT INTO {schema}.events
                (stream_id, stream_type, event_type, event_version, payload, metadata, occurred_at, sequence, event_id, retention_class)
            SELECT p_stream, a.stream_type, e ->> 't', (e ->> 'v')::integer, e -> 'p',
                CASE WHEN e ? 'm' THEN p_metadata || (e -> 'm') ELSE p_metadata END,
                coalesce((e ->> 'at')::timestamptz, now()), a.version - n + o,
                coalesce((e ->> 'id')::uuid, gen_random_uuid()), coalesce(e ->> 'r', 'hot')
            FROM advanced AS a, jsonb_array_elements(p_events) WITH ORDINALITY AS u (e, o);
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
