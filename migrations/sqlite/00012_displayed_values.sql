-- +goose Up

-- The first characters of a value that a person chose may be a word: it is recognised by digits of
-- its SHA-256.
UPDATE api_key_values SET prefix = 'sha256:' || lower(substr(hex(hash), 1, 4)) WHERE substr(prefix, 1, 3) <> 'hk_';
