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

-- Stores a task in the transaction of whoever calls it, as `insert.sql` does in one of the store's, and answers what became of
-- it: 'N' and the time for a new one; 'I', 'A' or 'K', the id and more for one that is known by its id, its name (with its
-- record) or its key (with the key's digest); 'C' if name and key are those of two tasks; 'R' if they came and went meanwhile.
-- It waits for a transaction that has the same name or key. What waits is counted in a row of the session, which no other
-- transaction changes meanwhile. Who listens on the channel hears of the task with the commit.
CREATE FUNCTION @.submit(
  a_id uuid, a_version bigint, a_format bigint, a_generation bigint, a_tenant text, a_pool text, a_name text, a_function text,
  a_record bytea, a_run_in bigint, a_expires_in bigint, a_sum bigint, a_head bytea, a_body bytea, a_key bytea,
  a_key_for bigint, a_digest bytea, a_channel text)
RETURNS bytea LANGUAGE plpgsql VOLATILE SET search_path = '' AS $$
DECLARE
  moment bigint := @.now_ms();
  named uuid;
  named_record bytea;
  keyed uuid;
  keyed_digest bytea;
  is_known boolean := false;
BEGIN
  FOR tried IN 1..5 LOOP
    IF a_name IS NOT NULL THEN
      SELECT t.id, t.record INTO named, named_record FROM @.task t
      WHERE t.name = a_name AND coalesce(t.tenant, '') = coalesce(a_tenant, '') AND (t.tenant IS NULL) = (a_tenant IS NULL);
    END IF;
    IF a_key IS NOT NULL AND named IS NULL THEN
      INSERT INTO @.key AS k (key, id, until, digest) VALUES (a_key, a_id, moment + a_key_for, a_digest)
      ON CONFLICT (key) DO UPDATE SET id = EXCLUDED.id, until = EXCLUDED.until, digest = EXCLUDED.digest
        WHERE k.until <= moment;
      is_known := NOT FOUND;
    END IF;
    IF named IS NOT NULL OR is_known THEN
      SELECT k.id, k.digest INTO keyed, keyed_digest FROM @.key k WHERE k.key = a_key AND k.until > moment;
      IF named <> keyed THEN
        RETURN 'C'::bytea;
      ELSIF named IS NOT NULL THEN
        RETURN 'A'::bytea || uuid_send(named) || named_record;
      ELSIF keyed IS NOT NULL THEN
        RETURN 'K'::bytea || uuid_send(keyed) || coalesce(keyed_digest, '');
      END IF;
      CONTINUE;
    END IF;
    INSERT INTO @.task (id, version, state, token, created_at, run_at, expires_at, format, generation, tenant, pool, name,
      function, record)
    VALUES (a_id, a_version, 0, 0, moment, moment + a_run_in, moment + a_expires_in, a_format, a_generation, a_tenant,
      a_pool, a_name, a_function, a_record)
    ON CONFLICT DO NOTHING;
    IF FOUND THEN
      INSERT INTO @.request (id, sum, head, body) VALUES (a_id, a_sum, a_head, a_body);
      INSERT INTO @.tally AS y (writer, tenant, pool, state, n)
      VALUES (pg_backend_pid(), coalesce('=' || a_tenant, ''), a_pool, 0, 1)
      ON CONFLICT (writer, tenant, pool, state) DO UPDATE SET n = y.n + 1;
      IF a_channel IS NOT NULL THEN
        PERFORM pg_notify(a_channel, '0;w;;' || encode(uuid_send(a_id), 'hex'));
      END IF;
      RETURN 'N'::bytea || int8send(moment);
    END IF;
    -- What is known by its name after all, or by its id, has no use for the key.
    DELETE FROM @.key k WHERE k.key = a_key AND k.id = a_id
      AND NOT EXISTS (SELECT FROM @.task t WHERE t.id = a_id);
    IF EXISTS (SELECT FROM @.task t WHERE t.id = a_id) THEN
      RETURN 'I'::bytea || uuid_send(a_id);
    END IF;
  END LOOP;
  RETURN 'R'::bytea;
END $$;

INSERT INTO @.control (version, named) VALUES (0, '');
