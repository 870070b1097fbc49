-- +goose Up

-- What was charged so far goes on the accounts that the keys have now. In a migration of its own: adding columns
-- locks the table, and this may take long.
UPDATE usage SET key_name = coalesce(k.name, ''), customer_id = k.customer_id, plan = coalesce(k.plan, ''),
    timezone = coalesce(p.quota_timezone, 'UTC')
FROM api_keys k LEFT JOIN plans p ON p.name = k.plan
WHERE k.id = usage.key_id AND usage.plan IS NULL;
