-- +goose Up

CREATE TABLE plans (
    name            TEXT PRIMARY KEY,
    quota_limit     INTEGER CHECK (quota_limit >= 1),
    quota_period    TEXT CHECK (quota_period IN ('DAY', 'WEEK', 'MONTH')),
    quota_offset    INTEGER NOT NULL DEFAULT 0,
    quota_timezone  TEXT NOT NULL DEFAULT 'UTC',
    throttle_rate   REAL CHECK (throttle_rate > 0),
    throttle_burst  INTEGER CHECK (throttle_burst >= 1),
    CHECK ((quota_limit IS NULL) = (quota_period IS NULL)),
    CHECK ((throttle_rate IS NULL) = (throttle_burst IS NULL))
) STRICT;

-- The plans that a new installation starts with.
INSERT INTO plans (name, quota_limit, quota_period, throttle_rate, throttle_burst) VALUES
    ('free', 5, 'DAY', 5, 5),
    ('paid', 5000, 'DAY', 100, 200);

-- A key is known by its name; one that was given a value but no name is known by the value's hash.
-- The id is what limits and usage are counted under: random, so that a key that is deleted and
-- created again starts afresh. Times are milliseconds since 1970 UTC.
CREATE TABLE api_keys (
    id           TEXT PRIMARY KEY DEFAULT (lower(hex(randomblob(16)))),
    name         TEXT UNIQUE,
    plan         TEXT REFERENCES plans (name) ON UPDATE CASCADE ON DELETE SET NULL,
    enabled      INTEGER NOT NULL DEFAULT 1 CHECK (enabled IN (0, 1)),
    description  TEXT NOT NULL DEFAULT '',
    customer_id  TEXT NOT NULL DEFAULT '',
    created_at   INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    expires_at   INTEGER
) STRICT;

-- The values that open a key. Only the SHA-256 is stored, and the first characters for people to
-- recognise it by. expires_at is set on a value that was rotated out and is valid for a while yet.
CREATE TABLE api_key_values (
    hash        BLOB PRIMARY KEY CHECK (length(hash) = 32),
    key_id      TEXT NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    prefix      TEXT NOT NULL,
    created_at  INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    expires_at  INTEGER
) STRICT;

CREATE INDEX api_key_values_key_id ON api_key_values (key_id);

CREATE TABLE greetings (
    name   TEXT PRIMARY KEY,
    count  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
