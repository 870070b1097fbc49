-- +goose Up

-- The serving process reads this number several times a second, to learn of changes to keys and plans by
-- whomever they are made.
CREATE TABLE key_changes (
    number  INTEGER NOT NULL
) STRICT;

INSERT INTO key_changes VALUES (0);

CREATE TRIGGER plans_insert AFTER INSERT ON plans BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER plans_update AFTER UPDATE ON plans BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER plans_delete AFTER DELETE ON plans BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER api_keys_insert AFTER INSERT ON api_keys BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER api_keys_update AFTER UPDATE ON api_keys BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER api_keys_delete AFTER DELETE ON api_keys BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER api_key_values_insert AFTER INSERT ON api_key_values BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER api_key_values_update AFTER UPDATE ON api_key_values BEGIN UPDATE key_changes SET number = number + 1; END;
CREATE TRIGGER api_key_values_delete AFTER DELETE ON api_key_values BEGIN UPDATE key_changes SET number = number + 1; END;
