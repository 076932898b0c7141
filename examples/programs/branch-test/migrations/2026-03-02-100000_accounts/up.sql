CREATE TABLE accounts (
    owner text PRIMARY KEY,
    cents bigint NOT NULL CONSTRAINT not_overdrawn CHECK (cents >= 0)
);
