-- +goose Up

-- Nothing: one process serves a SQLite file. The two databases have the same numbers.
SELECT 1;
