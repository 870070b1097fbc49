-- +goose Up

-- Replicas listen for changes to keys and plans, by whomever they are made. A notice is sent when its
-- transaction commits, and one for each transaction however many rows it changed. There is none for greetings:
-- commits that bring a notice wait for each other.

-- +goose StatementBegin
CREATE FUNCTION notify_key_changes() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NOTIFY helloapi_key_changes;
    RETURN NULL;
END
$$;
-- +goose StatementEnd

CREATE TRIGGER notify_key_changes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON plans
    FOR EACH STATEMENT EXECUTE FUNCTION notify_key_changes();
CREATE TRIGGER notify_key_changes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON api_keys
    FOR EACH STATEMENT EXECUTE FUNCTION notify_key_changes();
CREATE TRIGGER notify_key_changes AFTER INSERT OR UPDATE OR DELETE OR TRUNCATE ON api_key_values
    FOR EACH STATEMENT EXECUTE FUNCTION notify_key_changes();
