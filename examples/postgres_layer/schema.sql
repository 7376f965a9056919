-- What the layer keeps. Names have the layer's prefix in front. Each function is one round trip.
CREATE TABLE IF NOT EXISTS offload_queue (id bigserial PRIMARY KEY, name text, ends timestamptz, payload bytea);
CREATE INDEX IF NOT EXISTS offload_queue_name ON offload_queue (name, id);
CREATE TABLE IF NOT EXISTS offload_member (topic text, name text, ends timestamptz, PRIMARY KEY (topic, name));
CREATE TABLE IF NOT EXISTS offload_session (key bytea PRIMARY KEY, ends timestamptz, payload bytea);
CREATE TABLE IF NOT EXISTS offload_delayed (
    id bigserial PRIMARY KEY, prefix text, channel text, due timestamptz, payload bytea, taker text, batch bigint
);
CREATE TABLE IF NOT EXISTS offload_large (id bigserial PRIMARY KEY, ends timestamptz, payload bytea);

-- In so many seconds, or in thirty years.
CREATE OR REPLACE FUNCTION offload_in(seconds float8) RETURNS timestamptz AS $$
    SELECT clock_timestamp() + make_interval(secs => least(seconds, 1e9));
$$ LANGUAGE sql;

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
        VALUES (a_name, offload_in(expiry), a_payload);
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

-- One that its taker did not get.
CREATE OR REPLACE FUNCTION offload_give_back(an_id bigint, a_name text, an_end timestamptz, a_payload bytea)
RETURNS void AS $$
    INSERT INTO offload_queue (id, name, ends, payload) VALUES (an_id, a_name, an_end, a_payload);
    SELECT pg_notify('offload_queues', a_name);
$$ LANGUAGE sql;

CREATE OR REPLACE FUNCTION offload_keep(a_prefix text, a_channel text, a_payload bytea, seconds float8)
RETURNS void AS $$
    INSERT INTO offload_delayed (prefix, channel, due, payload)
    VALUES (a_prefix, a_channel, offload_in(seconds), a_payload);
$$ LANGUAGE sql;

-- A batch of delayed messages, the same one until its taker has said that it came; and the seconds until the next is due.
CREATE OR REPLACE FUNCTION offload_take_batch(
    a_prefix text, a_taker text, received bigint, a_batch bigint,
    OUT given bigint, OUT channels text[], OUT payloads bytea[], OUT seconds float8
) AS $$
    DELETE FROM offload_delayed
    WHERE taker = a_taker AND batch = received OR taker <> a_taker AND due < clock_timestamp() - interval '1 hour';
    UPDATE offload_delayed SET taker = a_taker, batch = a_batch WHERE id IN (
        SELECT id FROM offload_delayed
        WHERE prefix = a_prefix AND taker IS NULL AND due <= clock_timestamp()
            AND NOT EXISTS (SELECT FROM offload_delayed WHERE taker = a_taker)
        ORDER BY due, id FOR UPDATE SKIP LOCKED LIMIT 100
    );
    SELECT
        coalesce(max(batch), a_batch),
        coalesce(array_agg(channel ORDER BY due, id), '{}'),
        coalesce(array_agg(payload ORDER BY due, id), '{}'),
        (SELECT greatest(0, extract(epoch FROM min(due) - clock_timestamp())) FROM offload_delayed
            WHERE prefix = a_prefix AND taker IS NULL HAVING count(*) > 0)::float8
    FROM offload_delayed WHERE taker = a_taker;
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
        VALUES (offload_in(60), a_payload) RETURNING id INTO number;
        PERFORM pg_notify(channel, '#' || number);
    END IF;
END $$ LANGUAGE plpgsql;

CREATE OR REPLACE FUNCTION offload_large_load(an_id bigint) RETURNS SETOF bytea AS $$
    SELECT payload FROM offload_large WHERE id = an_id;
$$ LANGUAGE sql;

-- A process that is subscribed to its inbox has the lock of that name.
CREATE OR REPLACE FUNCTION offload_listen(channel text, is_inbox bool) RETURNS void AS $$
BEGIN
    EXECUTE format('LISTEN %I', channel);
    IF is_inbox THEN PERFORM pg_advisory_lock_shared(hashtextextended(channel, 2)); END IF;
END $$ LANGUAGE plpgsql;

-- How many processes hear it.
CREATE OR REPLACE FUNCTION offload_publish_counted(channel text, a_payload bytea) RETURNS bigint AS $$
    SELECT offload_publish(channel, a_payload);
    SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND granted AND mode = 'ShareLock'
        AND (classid::bigint << 32 | objid::bigint) = hashtextextended(channel, 2);
$$ LANGUAGE sql;

-- The queues that are members of the group.
CREATE OR REPLACE FUNCTION offload_group_send(channel text, a_payload bytea, a_topic text) RETURNS text[] AS $$
    SELECT offload_publish(channel, a_payload);
    SELECT array(SELECT name FROM offload_member WHERE topic = a_topic AND ends > clock_timestamp());
$$ LANGUAGE sql;

-- For so many seconds; with none it is a member no more.
CREATE OR REPLACE FUNCTION offload_set_member(a_topic text, a_name text, seconds float8) RETURNS void AS $$
    DELETE FROM offload_member WHERE topic = a_topic AND (name = a_name OR ends <= clock_timestamp());
    INSERT INTO offload_member SELECT a_topic, a_name, offload_in(seconds) WHERE seconds > 0
    ON CONFLICT (topic, name) DO UPDATE SET ends = EXCLUDED.ends;
$$ LANGUAGE sql;

CREATE OR REPLACE FUNCTION offload_session_load(a_key bytea) RETURNS bytea AS $$
    SELECT payload FROM offload_session WHERE key = a_key AND ends > clock_timestamp();
$$ LANGUAGE sql;

CREATE OR REPLACE FUNCTION offload_session_save(a_key bytea, a_payload bytea, expiry float8) RETURNS void AS $$
    DELETE FROM offload_session WHERE ends <= clock_timestamp();
    INSERT INTO offload_session VALUES (a_key, offload_in(expiry), a_payload)
    ON CONFLICT (key) DO UPDATE SET ends = EXCLUDED.ends, payload = EXCLUDED.payload;
$$ LANGUAGE sql;

CREATE OR REPLACE FUNCTION offload_session_expire(a_key bytea, seconds float8) RETURNS void AS $$
    UPDATE offload_session SET ends = offload_in(seconds) WHERE key = a_key AND ends > clock_timestamp();
$$ LANGUAGE sql;

-- Session keys are bytes: they are free text, also of kinds that PostgreSQL's text does not take.
CREATE OR REPLACE FUNCTION offload_flush(a_prefix text) RETURNS void AS $$
    DELETE FROM offload_queue WHERE starts_with(name, a_prefix);
    DELETE FROM offload_member WHERE starts_with(topic, a_prefix);
    DELETE FROM offload_delayed WHERE starts_with(prefix, a_prefix);
    DELETE FROM offload_session
    WHERE substring(key FROM 1 FOR octet_length(convert_to(a_prefix, 'UTF8'))) = convert_to(a_prefix, 'UTF8');
$$ LANGUAGE sql;
