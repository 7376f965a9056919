-- What the layer keeps. Names have the layer's prefix in front. Each function is one round trip.
CREATE TABLE IF NOT EXISTS offload_queue (id bigserial PRIMARY KEY, name text, ends timestamptz, payload bytea);
CREATE INDEX IF NOT EXISTS offload_queue_name ON offload_queue (name, id);
CREATE TABLE IF NOT EXISTS offload_member (topic text, name text, ends timestamptz, PRIMARY KEY (topic, name));
CREATE TABLE IF NOT EXISTS offload_session (key bytea PRIMARY KEY, ends timestamptz, payload bytea);
CREATE TABLE IF NOT EXISTS offload_delayed (
    id bigserial PRIMARY KEY, prefix text, channel text, due timestamptz, payload bytea, taker text, batch bigint
);
CREATE TABLE IF NOT EXISTS offload_large (id bigserial PRIMARY KEY, ends timestamptz, payload bytea);

-- How many messages had expired, and whether there was room for this one.
CREATE OR REPLACE FUNCTION offload_push(
    a_name text, a_payload bytea, expiry float8, capacity int, OUT expired int, OUT room bool
) AS $$
BEGIN
    -- One sender at a time for each queue; the count below is taken when the lock is held.
    PERFORM pg_advisory_xact_lock(hashtextextended(a_name, 1));
    DELETE FROM offload_queue WHERE name = a_name AND ends <= clock_timestamp();
    GET DIAGNOSTICS expired = ROW_COUNT;
    room := (SELECT count(*) < capacity FROM offload_queue WHERE name = a_name);
    IF room THEN
        INSERT INTO offload_queue (name, ends, payload)
        VALUES (a_name, clock_timestamp() + make_interval(secs => expiry), a_payload);
        PERFORM pg_notify('offload_queues', a_name);
    END IF;
END $$ LANGUAGE plpgsql;

-- The oldest message of the first of these queues that has one.
CREATE OR REPLACE FUNCTION offload_take(
    names text[], OUT expired int, OUT an_id bigint, OUT a_name text, OUT an_end timestamptz, OUT a_payload bytea
) AS $$
BEGIN
    WITH old AS (
        SELECT id FROM offload_queue
        WHERE name = ANY(names) AND ends <= clock_timestamp() FOR UPDATE SKIP LOCKED
    )
    DELETE FROM offload_queue WHERE id IN (SELECT id FROM old);
    GET DIAGNOSTICS expired = ROW_COUNT;
    WITH next AS (
        SELECT id FROM offload_queue WHERE name = ANY(names)
        ORDER BY array_position(names, name), id FOR UPDATE SKIP LOCKED LIMIT 1
    )
    DELETE FROM offload_queue WHERE id = (SELECT id FROM next)
    RETURNING id, name, ends, payload INTO an_id, a_name, an_end, a_payload;
END $$ LANGUAGE plpgsql;

-- A batch of delayed messages, the same one until its taker has said that it came.
CREATE OR REPLACE FUNCTION offload_take_due(a_prefix text, a_taker text, received bigint, a_batch bigint)
RETURNS TABLE (given bigint, a_channel text, a_payload bytea) AS $$
    DELETE FROM offload_delayed
    WHERE taker = a_taker AND batch = received OR taker <> a_taker AND due < clock_timestamp() - interval '1 hour';
    UPDATE offload_delayed SET taker = a_taker, batch = a_batch WHERE id IN (
        SELECT id FROM offload_delayed
        WHERE prefix = a_prefix AND taker IS NULL AND due <= clock_timestamp()
            AND NOT EXISTS (SELECT FROM offload_delayed WHERE taker = a_taker)
        ORDER BY due, id FOR UPDATE SKIP LOCKED LIMIT 100
    );
    SELECT batch, channel, payload FROM offload_delayed WHERE taker = a_taker ORDER BY due, id;
$$ LANGUAGE sql;

-- What is too large for a notification waits in a table.
CREATE OR REPLACE FUNCTION offload_publish(channel text, a_payload bytea) RETURNS void AS $$
DECLARE
    number bigint;
BEGIN
    IF length(a_payload) < 5900 THEN
        PERFORM pg_notify(channel, translate(encode(a_payload, 'base64'), E'\n', ''));
    ELSE
        DELETE FROM offload_large WHERE ends <= clock_timestamp();
        INSERT INTO offload_large (ends, payload)
        VALUES (clock_timestamp() + interval '1 minute', a_payload) RETURNING id INTO number;
        PERFORM pg_notify(channel, '#' || number);
    END IF;
END $$ LANGUAGE plpgsql;
