-- +goose Up

-- How many requests were refused, by key ('' if none was known), day (2006-01-02, in the time zone of the key's
-- quota, else UTC) and reason. As in usage each run of the serving process, the writer, counts up rows of its own.
CREATE TABLE refusals (
    key_id   text COLLATE "C" NOT NULL,
    day      text COLLATE "C" NOT NULL,
    reason   text COLLATE "C" NOT NULL,
    writer   text COLLATE "C" NOT NULL,
    refused  bigint NOT NULL,
    PRIMARY KEY (key_id, day, reason, writer)
);

CREATE INDEX refusals_day ON refusals (day);
