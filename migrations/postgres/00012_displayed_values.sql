-- +goose Up

-- The first characters of a value that a person chose may be a word: it is recognised by digits of
-- its SHA-256.
UPDATE api_key_values SET prefix = 'sha256:' || left(encode(hash, 'hex'), 4) WHERE NOT starts_with(prefix, 'hk_');
