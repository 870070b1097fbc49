-- +goose Up

-- Why a key was granted more: for people.
ALTER TABLE grants ADD COLUMN note TEXT NOT NULL DEFAULT '';
