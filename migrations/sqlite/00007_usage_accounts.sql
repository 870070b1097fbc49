-- +goose Up

-- Whose bill a charge goes on, as it was at that moment, and the time zone of the day. NULL in the rows of the
-- release before. A writer has a row for each account that a key was on that day: RUN, RUN/1, RUN/2.
ALTER TABLE usage ADD COLUMN key_name TEXT;
ALTER TABLE usage ADD COLUMN customer_id TEXT;
ALTER TABLE usage ADD COLUMN plan TEXT;
ALTER TABLE usage ADD COLUMN timezone TEXT;
