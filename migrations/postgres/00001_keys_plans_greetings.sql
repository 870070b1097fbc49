-- +goose Up

CREATE TABLE plans (
    name            text COLLATE "C" PRIMARY KEY,
    quota_limit     bigint CHECK (quota_limit >= 1),
    quota_period    text CHECK (quota_period IN ('DAY', 'WEEK', 'MONTH')),
    quota_offset    integer NOT NULL DEFAULT 0,
    quota_timezone  text NOT NULL DEFAULT 'UTC',
    throttle_rate   double precision CHECK (throttle_rate > 0),
    throttle_burst  bigint CHECK (throttle_burst >= 1),
    CHECK ((quota_limit IS NULL) = (quota_period IS NULL)),
    CHECK ((throttle_rate IS NULL) = (throttle_burst IS NULL))
);

-- The plans that a new installation starts with.
INSERT INTO plans (name, quota_limit, quota_period, throttle_rate, throttle_burst) VALUES
    ('free', 5, 'DAY', 5, 5),
    ('paid', 5000, 'DAY', 100, 200);

-- A key is known by its name; one that was given a value but no name is known by the value's hash.
-- The id is what limits and usage are counted under: random, so that a key that is deleted and
-- created again starts afresh, also beside a Redis that outlived the database.
CREATE TABLE api_keys (
    id           text COLLATE "C" PRIMARY KEY DEFAULT gen_random_uuid()::text,
    name         text COLLATE "C" UNIQUE,
    plan         text COLLATE "C" REFERENCES plans (name) ON UPDATE CASCADE ON DELETE SET NULL,
    enabled      boolean NOT NULL DEFAULT true,
    description  text NOT NULL DEFAULT '',
    customer_id  text NOT NULL DEFAULT '',
    created_at   timestamptz NOT NULL DEFAULT now(),
    expires_at   timestamptz
);

-- The values that open a key. Only the SHA-256 is stored, and the first characters for people to
-- recognise it by. expires_at is set on a value that was rotated out and is valid for a while yet.
CREATE TABLE api_key_values (
    hash        bytea PRIMARY KEY CHECK (length(hash) = 32),
    key_id      text COLLATE "C" NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    prefix      text NOT NULL,
    created_at  timestamptz NOT NULL DEFAULT now(),
    expires_at  timestamptz
);

CREATE INDEX api_key_values_key_id ON api_key_values (key_id);

-- Half-empty pages let a hot row be updated in place (HOT), without touching the index.
CREATE TABLE greetings (
    name   text COLLATE "C" PRIMARY KEY,
    count  bigint NOT NULL
) WITH (fillfactor = 50);
