-- +goose Up

-- When each serving process last reached Redis: one that does not, while others do, has the load balancer
-- take it out. Not worth to be kept through a crash.
CREATE UNLOGGED TABLE replicas (
    id        text COLLATE "C" PRIMARY KEY,
    redis_at  timestamptz NOT NULL
) WITH (fillfactor = 50);
