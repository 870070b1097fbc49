-- +goose Up

-- The answers to requests that had an Idempotency-Key (value), by the API key that called. A row with status 0 is the
-- claim of a request in flight. Times are milliseconds since 1970, by this database's clock.
CREATE TABLE idempotency (
    key_id        text COLLATE "C" NOT NULL,
    value         text COLLATE "C" NOT NULL,
    request       bytea NOT NULL, -- a hash of the request
    token         text COLLATE "C" NOT NULL, -- another one for each claim
    expires       bigint NOT NULL,
    status        integer NOT NULL DEFAULT 0,
    content_type  text NOT NULL DEFAULT '',
    location      text NOT NULL DEFAULT '',
    body          bytea,
    PRIMARY KEY (key_id, value)
);

CREATE INDEX idempotency_expires ON idempotency (expires);
