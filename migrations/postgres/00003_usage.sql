-- +goose Up

-- What each key was charged, by day in its quota's time zone. A writer is a run of a serving process and counts
-- up its own row, so writing a row twice changes nothing. The writer '' has what old rows were folded into.
-- Rows outlive their key: they are the record of what was used.
CREATE TABLE usage (
    key_id   text COLLATE "C" NOT NULL,
    day      date NOT NULL,
    writer   text COLLATE "C" NOT NULL,
    charged  bigint NOT NULL CHECK (charged >= 0),
    PRIMARY KEY (key_id, day, writer)
) WITH (fillfactor = 50);

CREATE INDEX usage_day ON usage (day);

-- Units that a key may use beyond its quota, in the window that has the day.
CREATE TABLE grants (
    id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    key_id      text COLLATE "C" NOT NULL REFERENCES api_keys (id) ON DELETE CASCADE,
    day         date NOT NULL,
    units       bigint NOT NULL CHECK (units >= 1),
    created_at  timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX grants_key_id ON grants (key_id);

CREATE TRIGGER notify_key_changes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON grants
    FOR EACH STATEMENT EXECUTE FUNCTION notify_key_changes();
