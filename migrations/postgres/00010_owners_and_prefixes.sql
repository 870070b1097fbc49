-- +goose Up

-- The file that says what a plan's limits are: another file changes them only if it is asked to. made_by is the file
-- that may remove the plan. NULL for a plan that no file lists.
ALTER TABLE plans ADD COLUMN owner text COLLATE "C";
UPDATE plans SET owner = made_by;

-- Digests over the first rows of an import: a file that begins like one and goes on differently is recognised.
CREATE TABLE greeting_import_prefixes (
    import_id  text COLLATE "C" NOT NULL REFERENCES greeting_imports (id) ON DELETE CASCADE,
    taken      bigint NOT NULL, -- rows
    digest     bytea NOT NULL,
    PRIMARY KEY (import_id, taken)
);
INSERT INTO greeting_import_prefixes (import_id, taken, digest)
    SELECT id, 1, first FROM greeting_imports
    UNION SELECT id, taken, digest FROM greeting_imports WHERE taken > 1;

-- The import that set a count: further rows of one name in the same import are added to it.
ALTER TABLE greetings ADD COLUMN replaced_by bigint;
