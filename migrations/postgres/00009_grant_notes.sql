-- +goose Up

-- Why a key was granted more: for people.
ALTER TABLE grants ADD COLUMN note text NOT NULL DEFAULT '';
