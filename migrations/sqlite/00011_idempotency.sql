-- +goose Up

-- The answers to requests that had an Idempotency-Key (value), by the API key that called. A row with status 0 is the
-- claim of a request in flight. Times are milliseconds since 1970, by this database's clock.
CREATE TABLE idempotency (
    key_id        TEXT NOT NULL,
    value         TEXT NOT NULL,
    request       BLOB NOT NULL, -- a hash of the request
    token         TEXT NOT NULL, -- another one for each claim
    expires       INTEGER NOT NULL,
    status        INTEGER NOT NULL DEFAULT 0,
    content_type  TEXT NOT NULL DEFAULT '',
    location      TEXT NOT NULL DEFAULT '',
    body          BLOB,
    PRIMARY KEY (key_id, value)
) STRICT, WITHOUT ROWID;

CREATE INDEX idempotency_expires ON idempotency (expires);
