-- Times are milliseconds since 1970. Texts have the collation "C": they are compared, but never sorted for people.
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
  -- The format of the record. A build does not touch rows of a newer format than it can read.
  format smallint NOT NULL,
  generation bigint NOT NULL,
  -- Whether the outbox has rows of this task.
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
-- The number of tasks in a state changes faster than the statistics. If these say that nothing waits, any index of
-- waiting tasks looks as good as the one in the right order. Without statistics, the planner assumes that one in a
-- hundred waits.
ALTER TABLE @.task ALTER state SET STATISTICS 0, ALTER suspect SET STATISTICS 0;
CREATE INDEX task_queue ON @.task (pool, run_at, id) WHERE state IN (0, 2) AND NOT suspect;
CREATE INDEX task_suspect ON @.task (run_at, id) WHERE state IN (0, 2) AND suspect;
CREATE INDEX task_waits ON @.task (tenant, run_at) WHERE state IN (0, 2);
CREATE INDEX task_expiry ON @.task (expires_at, id) WHERE state IN (0, 2);
CREATE INDEX task_held ON @.task (lease_until, id) WHERE state IN (1, 3);
CREATE INDEX task_worker ON @.task (worker) WHERE state IN (1, 3);
-- Enforces that a worker holds at most one suspect task, even if claims race.
CREATE UNIQUE INDEX task_one_suspect ON @.task (worker) WHERE state IN (1, 3) AND suspect;
CREATE INDEX task_listed ON @.task (created_at, id);
CREATE INDEX task_tenant ON @.task (tenant, created_at, id) WHERE tenant IS NOT NULL;
CREATE INDEX task_rests_ok ON @.task (rests_at, id) WHERE state = 4 AND rests_at IS NOT NULL;
CREATE INDEX task_rests_not ON @.task (rests_at, id) WHERE state > 4 AND rests_at IS NOT NULL;
CREATE UNIQUE INDEX task_name ON @.task (name, (coalesce(tenant, '')), (tenant IS NULL)) WHERE name IS NOT NULL;

-- A table of its own, since the task is rewritten at every step. `sum` is the CRC-32 of head and body.
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

-- Each piece has some lines, is keyed by the number of its last line, and includes the state of the meter after it.
CREATE TABLE @.log (id uuid NOT NULL, last bigint NOT NULL, piece bytea NOT NULL, PRIMARY KEY (id, last));
ALTER TABLE @.log ALTER piece SET STORAGE EXTENDED;

-- The number of tasks in each state. Every writer has rows of its own, so that none waits for another; the count is
-- their sum. Tenant: '' for none, '=x' for tenant x. State -1 counts the rows of the outbox.
CREATE TABLE @.tally (
  writer bigint NOT NULL, tenant text COLLATE "C" NOT NULL, pool text COLLATE "C" NOT NULL, state smallint NOT NULL,
  n bigint NOT NULL, PRIMARY KEY (writer, tenant, pool, state)
) WITH (fillfactor = 50, autovacuum_vacuum_threshold = 50, autovacuum_vacuum_scale_factor = 0);

CREATE TABLE @.process (worker text COLLATE "C" PRIMARY KEY, seen_at bigint NOT NULL, presence bytea NOT NULL)
  WITH (fillfactor = 50);

CREATE TABLE @.control (one boolean PRIMARY KEY DEFAULT true CHECK (one), version bigint NOT NULL, named bytea NOT NULL);

-- Records that cannot be read.
CREATE TABLE @.aside (at bigint NOT NULL, id uuid NOT NULL, record bytea NOT NULL);

-- The clock of the store. Tests replace it.
CREATE FUNCTION @.now_ms() RETURNS bigint LANGUAGE sql VOLATILE PARALLEL SAFE
  AS $$ SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint $$;

-- For external autoscalers: how many tasks wait, and how long the oldest of them has been due.
CREATE FUNCTION @.depth() RETURNS bigint LANGUAGE sql STABLE
  AS $$ SELECT coalesce(sum(n), 0)::bigint FROM @.tally WHERE state IN (0, 2) $$;
-- The first task of each pool, by the index.
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

-- Stores a task in the caller's transaction, as `insert.sql` does in one of the store's. Returns 'N' and the time for a
-- new task; 'I', 'A' or 'K', the id and more for a task that is known by its id, its name (with its record) or its key
-- (with the key's digest); 'C' if name and key belong to two tasks; 'R' if a task with the name or key appeared and
-- disappeared meanwhile.
-- It waits for open transactions with the same name or key. It counts the task in a tally row of this session, which no
-- other transaction changes meanwhile. The commit notifies listeners on the channel.
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
    -- The task is known by its name or id after all: release the key.
    DELETE FROM @.key k WHERE k.key = a_key AND k.id = a_id
      AND NOT EXISTS (SELECT FROM @.task t WHERE t.id = a_id);
    IF EXISTS (SELECT FROM @.task t WHERE t.id = a_id) THEN
      RETURN 'I'::bytea || uuid_send(a_id);
    END IF;
  END LOOP;
  RETURN 'R'::bytea;
END $$;

INSERT INTO @.control (version, named) VALUES (0, '');
