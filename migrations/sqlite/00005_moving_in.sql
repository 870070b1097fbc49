-- +goose Up

-- The file that `helloapi apply` made a plan or a key from, so that --prune removes nothing else. NULL for those
-- that no file made.
ALTER TABLE plans ADD COLUMN made_by TEXT;
ALTER TABLE api_keys ADD COLUMN made_by TEXT;

-- How much of each file of counts was added to the greetings, written in the transaction that adds them, so that
-- an import that was interrupted goes on and counts nothing twice. A file is known by what it says: digest is the
-- SHA-256 over the rows taken so far, first that over the first batch of them.
CREATE TABLE greeting_imports (
    id          TEXT PRIMARY KEY,
    first       BLOB NOT NULL,
    digest      BLOB NOT NULL,
    taken       INTEGER NOT NULL,
    done        INTEGER NOT NULL CHECK (done IN (0, 1)),
    updated_at  INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;
