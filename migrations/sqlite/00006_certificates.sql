-- +goose Up

-- A certificate for each host, by the ACME directory it comes from, and the state of getting it. Whoever holds the
-- lease may order one: until lease_until, and not before next_attempt. Times are Unix milliseconds.
CREATE TABLE certificates (
    directory     TEXT NOT NULL,
    host          TEXT NOT NULL,
    data          BLOB, -- the key and the chain, sealed; null before the first
    version       TEXT, -- another one for each certificate
    not_after     INTEGER,
    issued_at     INTEGER,
    renew         INTEGER NOT NULL DEFAULT 0, -- asked for by a person
    failures      INTEGER NOT NULL DEFAULT 0, -- since the last success
    last_error    TEXT NOT NULL DEFAULT '',
    next_attempt  INTEGER NOT NULL DEFAULT 0,
    holder        TEXT NOT NULL DEFAULT '',
    fence         INTEGER NOT NULL DEFAULT 0, -- one more with each lease
    lease_until   INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (directory, host)
) STRICT;

-- What else has to be shared, sealed too: account keys, and the answers to challenges that are under way.
CREATE TABLE certificate_secrets (
    directory   TEXT NOT NULL,
    name        TEXT NOT NULL,
    data        BLOB NOT NULL,
    written_at  INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER)),
    PRIMARY KEY (directory, name)
) STRICT;
