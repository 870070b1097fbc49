-- +goose Up

-- See postgres/00013_changes.sql. Whoever changes something within a transaction of a helloapi command has a row in
-- change_actor, which is gone when the transaction ends; else it is SQL by hand.
CREATE TABLE changes (
    id       INTEGER PRIMARY KEY,
    at       INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    actor    TEXT NOT NULL,
    action   TEXT NOT NULL,
    subject  TEXT NOT NULL,
    key_id   TEXT NOT NULL,
    before   TEXT,
    after    TEXT
) STRICT;

CREATE INDEX changes_at ON changes (at);
CREATE INDEX changes_key_id ON changes (key_id, at);

CREATE TABLE change_actor (
    actor  TEXT NOT NULL
) STRICT;

-- +goose StatementBegin
CREATE TRIGGER plans_insert_recorded AFTER INSERT ON plans
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'create plan', NEW.name, '',
            NULL,
            json_object('name', NEW.name, 'quota_limit', NEW.quota_limit, 'quota_period', NEW.quota_period,
            'quota_offset', NEW.quota_offset, 'quota_timezone', NEW.quota_timezone,
            'throttle_rate', NEW.throttle_rate, 'throttle_burst', NEW.throttle_burst, 'made_by', NEW.made_by,
            'owner', NEW.owner);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER plans_update_recorded AFTER UPDATE ON plans
    WHEN OLD.name IS NOT NEW.name OR OLD.quota_limit IS NOT NEW.quota_limit
        OR OLD.quota_period IS NOT NEW.quota_period OR OLD.quota_offset IS NOT NEW.quota_offset
        OR OLD.quota_timezone IS NOT NEW.quota_timezone OR OLD.throttle_rate IS NOT NEW.throttle_rate
        OR OLD.throttle_burst IS NOT NEW.throttle_burst OR OLD.made_by IS NOT NEW.made_by
        OR OLD.owner IS NOT NEW.owner
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'update plan', OLD.name, '',
            json_object('name', OLD.name, 'quota_limit', OLD.quota_limit, 'quota_period', OLD.quota_period,
            'quota_offset', OLD.quota_offset, 'quota_timezone', OLD.quota_timezone,
            'throttle_rate', OLD.throttle_rate, 'throttle_burst', OLD.throttle_burst, 'made_by', OLD.made_by,
            'owner', OLD.owner),
            json_object('name', NEW.name, 'quota_limit', NEW.quota_limit, 'quota_period', NEW.quota_period,
            'quota_offset', NEW.quota_offset, 'quota_timezone', NEW.quota_timezone,
            'throttle_rate', NEW.throttle_rate, 'throttle_burst', NEW.throttle_burst, 'made_by', NEW.made_by,
            'owner', NEW.owner);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER plans_delete_recorded AFTER DELETE ON plans
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'delete plan', OLD.name, '',
            json_object('name', OLD.name, 'quota_limit', OLD.quota_limit, 'quota_period', OLD.quota_period,
            'quota_offset', OLD.quota_offset, 'quota_timezone', OLD.quota_timezone,
            'throttle_rate', OLD.throttle_rate, 'throttle_burst', OLD.throttle_burst, 'made_by', OLD.made_by,
            'owner', OLD.owner),
            NULL;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER api_keys_insert_recorded AFTER INSERT ON api_keys
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'create key', coalesce(NEW.name, NEW.id), NEW.id,
            NULL,
            json_object('id', NEW.id, 'name', NEW.name, 'plan', NEW.plan, 'enabled', json(iif(NEW.enabled, 'true', 'false')),
            'description', NEW.description, 'customer_id', NEW.customer_id,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.expires_at / 1000.0, 'unixepoch'),
            'made_by', NEW.made_by);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER api_keys_update_recorded AFTER UPDATE ON api_keys
    WHEN OLD.id IS NOT NEW.id OR OLD.name IS NOT NEW.name OR OLD.plan IS NOT NEW.plan
        OR OLD.enabled IS NOT NEW.enabled OR OLD.description IS NOT NEW.description
        OR OLD.customer_id IS NOT NEW.customer_id OR OLD.created_at IS NOT NEW.created_at
        OR OLD.expires_at IS NOT NEW.expires_at OR OLD.made_by IS NOT NEW.made_by
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'update key', coalesce(OLD.name, OLD.id), OLD.id,
            json_object('id', OLD.id, 'name', OLD.name, 'plan', OLD.plan, 'enabled', json(iif(OLD.enabled, 'true', 'false')),
            'description', OLD.description, 'customer_id', OLD.customer_id,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.expires_at / 1000.0, 'unixepoch'),
            'made_by', OLD.made_by),
            json_object('id', NEW.id, 'name', NEW.name, 'plan', NEW.plan, 'enabled', json(iif(NEW.enabled, 'true', 'false')),
            'description', NEW.description, 'customer_id', NEW.customer_id,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.expires_at / 1000.0, 'unixepoch'),
            'made_by', NEW.made_by);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER api_keys_delete_recorded AFTER DELETE ON api_keys
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'delete key', coalesce(OLD.name, OLD.id), OLD.id,
            json_object('id', OLD.id, 'name', OLD.name, 'plan', OLD.plan, 'enabled', json(iif(OLD.enabled, 'true', 'false')),
            'description', OLD.description, 'customer_id', OLD.customer_id,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.expires_at / 1000.0, 'unixepoch'),
            'made_by', OLD.made_by),
            NULL;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER api_key_values_insert_recorded AFTER INSERT ON api_key_values
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'create key value', coalesce(k.name, k.id), NEW.key_id,
            NULL,
            json_object('key_id', NEW.key_id, 'prefix', NEW.prefix,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.expires_at / 1000.0, 'unixepoch'))
        FROM api_keys k WHERE k.id = NEW.key_id
            AND EXISTS (SELECT 1 FROM api_key_values v WHERE v.key_id = NEW.key_id AND v.hash <> NEW.hash);
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER api_key_values_update_recorded AFTER UPDATE ON api_key_values
    WHEN OLD.key_id IS NOT NEW.key_id OR OLD.prefix IS NOT NEW.prefix
        OR OLD.created_at IS NOT NEW.created_at OR OLD.expires_at IS NOT NEW.expires_at
        OR OLD.hash IS NOT NEW.hash
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'update key value', coalesce(k.name, k.id), OLD.key_id,
            json_object('key_id', OLD.key_id, 'prefix', OLD.prefix,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.expires_at / 1000.0, 'unixepoch')),
            json_object('key_id', NEW.key_id, 'prefix', NEW.prefix,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.expires_at / 1000.0, 'unixepoch'))
        FROM api_keys k WHERE k.id = OLD.key_id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER api_key_values_delete_recorded AFTER DELETE ON api_key_values
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'delete key value', coalesce(k.name, k.id), OLD.key_id,
            json_object('key_id', OLD.key_id, 'prefix', OLD.prefix,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.created_at / 1000.0, 'unixepoch'),
            'expires_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.expires_at / 1000.0, 'unixepoch')),
            NULL
        FROM api_keys k WHERE k.id = OLD.key_id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER grants_insert_recorded AFTER INSERT ON grants
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'create grant', coalesce(k.name, k.id), NEW.key_id,
            NULL,
            json_object('id', NEW.id, 'key_id', NEW.key_id, 'day', NEW.day, 'units', NEW.units, 'note', NEW.note,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.created_at / 1000.0, 'unixepoch'))
        FROM api_keys k WHERE k.id = NEW.key_id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER grants_update_recorded AFTER UPDATE ON grants
    WHEN OLD.id IS NOT NEW.id OR OLD.key_id IS NOT NEW.key_id OR OLD.day IS NOT NEW.day
        OR OLD.units IS NOT NEW.units OR OLD.note IS NOT NEW.note OR OLD.created_at IS NOT NEW.created_at
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'update grant', coalesce(k.name, k.id), OLD.key_id,
            json_object('id', OLD.id, 'key_id', OLD.key_id, 'day', OLD.day, 'units', OLD.units, 'note', OLD.note,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.created_at / 1000.0, 'unixepoch')),
            json_object('id', NEW.id, 'key_id', NEW.key_id, 'day', NEW.day, 'units', NEW.units, 'note', NEW.note,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', NEW.created_at / 1000.0, 'unixepoch'))
        FROM api_keys k WHERE k.id = OLD.key_id;
END;
-- +goose StatementEnd

-- +goose StatementBegin
CREATE TRIGGER grants_delete_recorded AFTER DELETE ON grants
BEGIN
    INSERT INTO changes (actor, action, subject, key_id, before, after)
        SELECT coalesce((SELECT actor FROM change_actor), 'sql'), 'delete grant', coalesce(k.name, k.id), OLD.key_id,
            json_object('id', OLD.id, 'key_id', OLD.key_id, 'day', OLD.day, 'units', OLD.units, 'note', OLD.note,
            'created_at', strftime('%Y-%m-%dT%H:%M:%fZ', OLD.created_at / 1000.0, 'unixepoch')),
            NULL
        FROM api_keys k WHERE k.id = OLD.key_id;
END;
-- +goose StatementEnd
