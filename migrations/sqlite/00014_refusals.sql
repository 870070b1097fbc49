-- +goose Up

-- See postgres/00014_refusals.sql.
CREATE TABLE refusals (
    key_id   TEXT NOT NULL,
    day      TEXT NOT NULL,
    reason   TEXT NOT NULL,
    writer   TEXT NOT NULL,
    refused  INTEGER NOT NULL,
    PRIMARY KEY (key_id, day, reason, writer)
) STRICT, WITHOUT ROWID;

CREATE INDEX refusals_day ON refusals (day);
