-- +goose Up

-- A certificate for each host, by the ACME directory it comes from, and the state of getting it. Whoever holds the
-- lease may order one: until lease_until, and not before next_attempt. Both are of this database's clock.
CREATE TABLE certificates (
    directory     text COLLATE "C" NOT NULL,
    host          text COLLATE "C" NOT NULL,
    data          bytea, -- the key and the chain, sealed; null before the first
    version       text COLLATE "C", -- another one for each certificate
    not_after     timestamptz,
    issued_at     timestamptz,
    renew         boolean NOT NULL DEFAULT false, -- asked for by a person
    failures      integer NOT NULL DEFAULT 0, -- since the last success
    last_error    text NOT NULL DEFAULT '',
    next_attempt  timestamptz NOT NULL DEFAULT 'epoch',
    holder        text NOT NULL DEFAULT '',
    fence         bigint NOT NULL DEFAULT 0, -- one more with each lease
    lease_until   timestamptz NOT NULL DEFAULT 'epoch',
    PRIMARY KEY (directory, host)
);

-- What else has to be shared, sealed too: account keys, and the answers to challenges that are under way.
CREATE TABLE certificate_secrets (
    directory   text COLLATE "C" NOT NULL,
    name        text COLLATE "C" NOT NULL,
    data        bytea NOT NULL,
    written_at  timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (directory, name)
);
