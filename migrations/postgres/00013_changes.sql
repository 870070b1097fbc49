-- +goose Up

-- Who changed which plan, key, value or grant, and what it was before and after: written by triggers, in the
-- transaction of the change, so that nothing is left out, SQL by hand included. It never holds a key's value, nor a
-- hash of one. The times of rows are milliseconds since 1970.
CREATE TABLE changes (
    id       bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at       bigint NOT NULL,
    actor    text NOT NULL,
    action   text NOT NULL, -- create, update, delete or truncate, and what of: key, key value, plan, grant
    subject  text NOT NULL, -- the name of the key or plan, before the change
    key_id   text COLLATE "C" NOT NULL,
    before   jsonb,
    after    jsonb
);

CREATE INDEX changes_at ON changes (at);
CREATE INDEX changes_key_id ON changes (key_id, at);

-- With the rights of its owner, so that whoever may change a key need not be able to change this record. The actor is
-- whom a helloapi command names for its transaction, else the role of the session. A key is recorded with its first
-- value, and when it is deleted with all that it had.
-- +goose StatementBegin
CREATE FUNCTION record_change() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
DECLARE
    kind     text := TG_ARGV[0];
    before   jsonb;
    after    jsonb;
    subject  text := '';
    key_id   text := '';
BEGIN
    IF TG_OP IN ('UPDATE', 'DELETE') THEN before := to_jsonb(OLD); END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') THEN after := to_jsonb(NEW); END IF;
    IF before = after THEN RETURN NULL; END IF;
    IF kind = 'plan' THEN
        subject := coalesce(coalesce(before, after)->>'name', '');
    ELSIF kind = 'key' THEN
        key_id := coalesce(coalesce(before, after)->>'id', '');
        subject := coalesce(coalesce(before, after)->>'name', key_id);
    ELSIF TG_OP <> 'TRUNCATE' THEN
        key_id := coalesce(before, after)->>'key_id';
        EXECUTE format('SELECT coalesce(name, id) FROM %I.api_keys WHERE id = $1', TG_TABLE_SCHEMA) INTO subject USING key_id;
        IF subject IS NULL THEN RETURN NULL; END IF;
        IF kind = 'key value' AND TG_OP = 'INSERT' THEN
            EXECUTE format('SELECT $2 FROM %I.api_key_values WHERE key_id = $1 AND hash <> $3 LIMIT 1', TG_TABLE_SCHEMA)
                INTO subject USING key_id, subject, NEW.hash;
            IF subject IS NULL THEN RETURN NULL; END IF;
        END IF;
    END IF;
    EXECUTE format('INSERT INTO %I.changes (at, actor, action, subject, key_id, before, after) VALUES ($1, $2, $3, $4, $5, $6, $7)', TG_TABLE_SCHEMA)
        USING (extract(epoch FROM clock_timestamp()) * 1000)::bigint,
            coalesce(nullif(current_setting('helloapi.actor', true), ''), session_user),
            CASE TG_OP WHEN 'INSERT' THEN 'create' ELSE lower(TG_OP) END || ' ' || kind,
            subject, key_id, before - 'hash', after - 'hash';
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON plans FOR EACH ROW EXECUTE FUNCTION record_change('plan');
CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON api_keys FOR EACH ROW EXECUTE FUNCTION record_change('key');
CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON api_key_values FOR EACH ROW EXECUTE FUNCTION record_change('key value');
CREATE TRIGGER record_change AFTER INSERT OR UPDATE OR DELETE ON grants FOR EACH ROW EXECUTE FUNCTION record_change('grant');
CREATE TRIGGER record_truncate AFTER TRUNCATE ON plans FOR EACH STATEMENT EXECUTE FUNCTION record_change('plan');
CREATE TRIGGER record_truncate AFTER TRUNCATE ON api_keys FOR EACH STATEMENT EXECUTE FUNCTION record_change('key');
CREATE TRIGGER record_truncate AFTER TRUNCATE ON api_key_values FOR EACH STATEMENT EXECUTE FUNCTION record_change('key value');
CREATE TRIGGER record_truncate AFTER TRUNCATE ON grants FOR EACH STATEMENT EXECUTE FUNCTION record_change('grant');
