-- +goose Up

-- What each key was charged, by day (2006-01-02) in its quota's time zone. A writer is a run of the serving
-- process and counts up its own row, so writing a row twice changes nothing. The writer '' has what old rows were
-- folded into. Rows outlive their key: they are the record of what was used.
CREATE TABLE usage (
    key_id   TEXT NOT NULL,
    day      TEXT NOT NULL,
    writer   TEXT NOT NULL,
    charged  INTEGER NOT NULL CHECK (charged >= 0),
    PRIMARY KEY (key_id, day, writer)
) STRICT, WITHOUT ROWID;

CREATE INDEX usage_day ON usage (day);

-- Units that a key may use beyond its quota, in the window that has the day.
CREATE TABLE grants (
    id          INTEGER PRIMARY KEY,
    key_id      TEXT NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    day         TEXT NOT NULL,
    units       INTEGER NOT NULL CHECK (units >= 1),
    created_at  INTEGER NOT NULL DEFAULT (CAST(unixepoch('subsec') * 1000 AS INTEGER))
) STRICT;

CREATE INDEX grants_key_id ON grants (key_id);

CREATE TRIGGER grants_insert AFTER INSERT ON grants BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER grants_update AFTER UPDATE ON grants BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER grants_delete AFTER DELETE ON grants BEGIN UPDATE key_changes SET number = number + 1; END;
