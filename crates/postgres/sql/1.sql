-- Times are milliseconds since 1970. Texts are in the "C" collation: they are compared, never sorted for people.
-- State: 0 enqueued, 1 running, 2 retrying, 3 stopping, 4 succeeded, 5 failed, 6 stopped, 7 expired, 8 invalid.
CREATE TABLE @.task (
  id uuid PRIMARY KEY,
  version bigint NOT NULL,
  state smallint NOT NULL,
  suspect boolean NOT NULL DEFAULT false,
  token bigint NOT NULL,
  worker text COLLATE "C",
  created_at bigint NOT NULL,
  run_at bigint NOT NULL,
  expires_at bigint NOT NULL,
  lease_until bigint,
  started_at bigint,
  ended_at bigint,
  rests_at bigint,
  -- The format of the record: a build leaves those alone that are newer than it reads.
  format smallint NOT NULL,
  generation bigint NOT NULL,
  -- Whether there are rows of it in the outbox.
  owes boolean NOT NULL DEFAULT false,
  tenant text COLLATE "C",
  pool text COLLATE "C" NOT NULL,
  name text COLLATE "C",
  function text COLLATE "C" NOT NULL,
  record bytea NOT NULL,
  progress bytea,
  response bytea
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 1000,
        autovacuum_vacuum_insert_scale_factor = 0.1, autovacuum_analyze_scale_factor = 0.05,
        autovacuum_vacuum_cost_delay = 1, autovacuum_vacuum_cost_limit = 2000);
ALTER TABLE @.task ALTER record SET STORAGE MAIN, ALTER progress SET STORAGE MAIN, ALTER response SET STORAGE EXTERNAL;
-- How many are in a state changes more quickly than statistics. Where these say that nothing waits, any index of what waits
-- looks as good as the one that is sorted as it is asked for; without any, a hundredth is taken to wait.
ALTER TABLE @.task ALTER state SET STATISTICS 0, ALTER suspect SET STATISTICS 0;
CREATE INDEX task_queue ON @.task (pool, run_at, id) WHERE state IN (0, 2) AND NOT suspect;
CREATE INDEX task_suspect ON @.task (run_at, id) WHERE state IN (0, 2) AND suspect;
CREATE INDEX task_waits ON @.task (tenant, run_at) WHERE state IN (0, 2);
CREATE INDEX task_expiry ON @.task (expires_at, id) WHERE state IN (0, 2);
CREATE INDEX task_held ON @.task (lease_until, id) WHERE state IN (1, 3);
CREATE INDEX task_worker ON @.task (worker) WHERE state IN (1, 3);
-- The promise as a constraint: whatever claims race, a worker holds one suspect.
CREATE UNIQUE INDEX task_one_suspect ON @.task (worker) WHERE state IN (1, 3) AND suspect;
CREATE INDEX task_listed ON @.task (created_at, id);
CREATE INDEX task_tenant ON @.task (tenant, created_at, id) WHERE tenant IS NOT NULL;
CREATE INDEX task_rests_ok ON @.task (rests_at, id) WHERE state = 4 AND rests_at IS NOT NULL;
CREATE INDEX task_rests_not ON @.task (rests_at, id) WHERE state > 4 AND rests_at IS NOT NULL;
CREATE UNIQUE INDEX task_name ON @.task (name, (coalesce(tenant, '')), (tenant IS NULL)) WHERE name IS NOT NULL;

-- Apart from the task, which is rewritten with every step. `sum` is the CRC-32 of head and body.
CREATE TABLE @.request (id uuid PRIMARY KEY, sum integer NOT NULL, head bytea NOT NULL, body bytea NOT NULL)
  WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_insert_scale_factor = 0.1);
ALTER TABLE @.request ALTER body SET STORAGE EXTERNAL;

CREATE TABLE @.key (key bytea PRIMARY KEY, id uuid NOT NULL, until bigint NOT NULL, digest bytea);
CREATE INDEX key_until ON @.key (until);

CREATE TABLE @.outbox (
  id uuid NOT NULL, generation bigint NOT NULL, destination text COLLATE "C" NOT NULL,
  due_at bigint NOT NULL, token bigint NOT NULL, claimed boolean NOT NULL,
  PRIMARY KEY (id, generation, destination)
) WITH (fillfactor = 70);
CREATE INDEX outbox_due ON @.outbox (destination, due_at, id);

-- Lines by the number of the last in each piece, with the meter as it is behind them.
CREATE TABLE @.log (id uuid NOT NULL, last bigint NOT NULL, piece bytea NOT NULL, PRIMARY KEY (id, last));
ALTER TABLE @.log ALTER piece SET STORAGE EXTENDED;

-- How many tasks are in each state. Every writer counts in rows of its own, so that none waits for another; the sums count.
-- Tenant: '' none, '=x' of x. State -1 counts the outbox.
CREATE TABLE @.tally (
  writer bigint NOT NULL, tenant text COLLATE "C" NOT NULL, pool text COLLATE "C" NOT NULL, state smallint NOT NULL,
  n bigint NOT NULL, PRIMARY KEY (writer, tenant, pool, state)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE @.process (worker text COLLATE "C" PRIMARY KEY, seen_at bigint NOT NULL, presence bytea NOT NULL)
  WITH (fillfactor = 50);

CREATE TABLE @.control (one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL, named bytea NOT NULL);

-- What could not be read: rows as they were.
CREATE TABLE @.aside (at bigint NOT NULL, id uuid NOT NULL, record bytea NOT NULL);

-- The clock of the store. Tests replace it.
CREATE FUNCTION @.now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
  AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- For whoever scales by them from outside: how many tasks wait, and for how long the oldest that is due has.
CREATE FUNCTION @.depth() RETURNS bigint LANGUAGE sql STABLE
  AS $$ SELECT coalesce(sum(n), 0)::bigint FROM @.tally WHERE state IN (0, 2) $$;
-- Each pool's first, by the index.
CREATE FUNCTION @.oldest_run_at() RETURNS bigint LANGUAGE sql STABLE AS $$
  WITH RECURSIVE pools AS (
    (SELECT pool FROM @.task WHERE state IN (0, 2) AND NOT suspect ORDER BY pool LIMIT 1)
    UNION ALL
    SELECT (SELECT t.pool FROM @.task t WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool > p.pool ORDER BY t.pool LIMIT 1)
    FROM pools p WHERE p.pool IS NOT NULL)
  SELECT least(
    (SELECT min(first.run_at) FROM pools p CROSS JOIN LATERAL (SELECT t.run_at FROM @.task t
      WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool = p.pool ORDER BY t.run_at, t.id LIMIT 1) first),
    (SELECT t.run_at FROM @.task t WHERE t.state IN (0, 2) AND t.suspect ORDER BY t.run_at, t.id LIMIT 1)) $$;
CREATE FUNCTION @.oldest_age_ms() RETURNS bigint LANGUAGE sql VOLATILE
  AS $$ SELECT greatest(coalesce(@.now_ms() - @.oldest_run_at(), 0), 0) $$;

INSERT INTO @.control (version, named) VALUES (0, '');
