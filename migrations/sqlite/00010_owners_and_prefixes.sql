-- +goose Up

-- See postgres/00010_owners_and_prefixes.sql.
ALTER TABLE plans ADD COLUMN owner TEXT;
UPDATE plans SET owner = made_by;

CREATE TABLE greeting_import_prefixes (
    import_id  TEXT NOT NULL REFERENCES greeting_imports (id) ON DELETE CASCADE,
    taken      INTEGER NOT NULL, -- rows
    digest     BLOB NOT NULL,
    PRIMARY KEY (import_id, taken)
) STRICT, WITHOUT ROWID;
INSERT INTO greeting_import_prefixes (import_id, taken, digest)
    SELECT id, 1, first FROM greeting_imports
    UNION SELECT id, taken, digest FROM greeting_imports WHERE taken > 1;

ALTER TABLE greetings ADD COLUMN replaced_by INTEGER;
