-- Results of other parts of the statement are looked up with IN, not joined: they have no index, so a join would read
-- them once for every row. The planner hashes such a look-up; "IS TRUE" keeps it from making a join of it.
WITH clock AS MATERIALIZED (SELECT @.now_ms() AS now),
-- A negative time is relative to now: -1 is now, -1001 a second later.
s AS MATERIALIZED (
  SELECT * FROM unnest($1::uuid[], $2::int8[], $3::bool[], $4::bool[], $5::int2[], $6::bool[], $7::text[], $8::int8[],
    $9::int8[], $10::int8[], $11::int8[], $12::int8[], $13::int8[], $14::int8[], $15::int2[], $16::int8[], $17::bool[],
    $18::bytea[], $19::bool[], $20::bytea[], $21::int4[], $22::bytea[], $23::bytea[])
  WITH ORDINALITY AS s(id, version, lapsed, gone, state, suspect, worker, token, run_at, expires_at, lease_until, started_at,
    ended_at, rests_at, format, generation, owes, record, answered, response, sum, head, body, nth)),
x AS MATERIALIZED (
  SELECT * FROM unnest($24::int8[], $31::uuid[], $25::int8[], $26::text[], $27::int8[], $28::int8[], $29::int8[])
    AS x(nth, id, generation, destination, was, due_in, token)),
-- The lock keeps claims of these completions out until the commit. If a claim changed a row before it was locked, the
-- new version of the row is read.
found AS MATERIALIZED (
  SELECT x.nth, x.generation, x.destination, k.token FROM x JOIN @.outbox k
    ON k.id = x.id AND k.generation = x.generation AND k.destination = x.destination
  ORDER BY k.id, k.generation, k.destination FOR UPDATE OF k),
refused AS MATERIALIZED (
  SELECT x.nth FROM x WHERE CASE
    WHEN was IS NULL THEN (nth, generation, destination) IN (SELECT nth, generation, destination FROM found)
    ELSE (nth, generation, destination, was) NOT IN (SELECT nth, generation, destination, token FROM found) END),
-- The version alone is not enough: after a failover that lost a claim, the next claim makes the same version, but with
-- another token. "+ 0" keeps the planner from a join over all held tasks.
u AS (
  UPDATE @.task t SET version = t.version + 1, state = s.state, suspect = s.suspect, worker = s.worker,
    run_at = CASE WHEN s.run_at < 0 THEN clock.now - s.run_at - 1 ELSE s.run_at END,
    expires_at = CASE WHEN s.expires_at < 0 THEN clock.now - s.expires_at - 1 ELSE s.expires_at END,
    ended_at = CASE WHEN s.ended_at < 0 THEN clock.now - s.ended_at - 1 ELSE s.ended_at END,
    rests_at = CASE WHEN s.rests_at < 0 THEN clock.now - s.rests_at - 1 ELSE s.rests_at END,
    -- If the task stays held, its lease may have been renewed since the change was computed.
    lease_until = CASE WHEN s.state IN (1, 3) AND t.state + 0 IN (1, 3) THEN t.lease_until ELSE s.lease_until END,
    started_at = s.started_at, format = s.format, owes = s.owes, record = s.record,
    progress = CASE WHEN t.generation = s.generation THEN t.progress END, generation = s.generation,
    response = CASE WHEN s.answered THEN s.response ELSE t.response END
  FROM s, clock
  WHERE t.id = s.id AND t.version = s.version AND t.token = s.token AND NOT s.gone
    AND (NOT s.lapsed OR (t.state + 0 IN (1, 3) AND t.lease_until + 0 <= clock.now))
    AND s.nth NOT IN (SELECT nth FROM refused)
  -- The old state is that of the snapshot; the check of the version ensures that it is current.
  RETURNING s.nth, t.id, t.tenant, t.pool, t.state, (SELECT o.state FROM @.task o WHERE o.id = t.id) AS was),
d AS (
  DELETE FROM @.task t USING s, clock
  WHERE t.id = s.id AND t.version = s.version AND s.gone
    AND (NOT s.lapsed OR (t.state + 0 IN (1, 3) AND t.lease_until + 0 <= clock.now))
  RETURNING s.nth, t.id, t.tenant, t.pool, t.state),
put AS (
  INSERT INTO @.outbox AS o (id, generation, destination, due_at, token, claimed)
  SELECT x.id, x.generation, x.destination, clock.now + x.due_in, x.token, false FROM x CROSS JOIN clock
  WHERE x.due_in IS NOT NULL AND (x.nth IN (SELECT nth FROM u)) IS TRUE ORDER BY 1, 2, 3
  ON CONFLICT (id, generation, destination)
    DO UPDATE SET due_at = EXCLUDED.due_at, token = EXCLUDED.token, claimed = EXCLUDED.claimed),
took AS (
  DELETE FROM @.outbox o USING x
  WHERE x.due_in IS NULL AND (x.nth IN (SELECT nth FROM u)) IS TRUE AND o.id = x.id AND o.generation = x.generation AND o.destination = x.destination),
cleared AS (DELETE FROM @.outbox o USING d WHERE o.id = d.id RETURNING 1),
asked AS (DELETE FROM @.request q USING d WHERE q.id = d.id),
logged AS (DELETE FROM @.log l USING d WHERE l.id = d.id),
again AS (
  UPDATE @.request q SET sum = s.sum, head = s.head, body = s.body FROM s
  WHERE q.id = s.id AND s.sum IS NOT NULL AND (s.nth IN (SELECT nth FROM u)) IS TRUE),
-- Counts what was changed, not what was requested.
moved AS (
  SELECT tenant, pool, was AS state, -1 AS n FROM u UNION ALL SELECT tenant, pool, state, 1 FROM u
  UNION ALL SELECT tenant, pool, state, -1 FROM d
  UNION ALL SELECT NULL, '', -1::int2, 1 FROM x
    WHERE x.was IS NULL AND x.due_in IS NOT NULL AND (x.nth IN (SELECT nth FROM u)) IS TRUE
  UNION ALL SELECT NULL, '', -1::int2, -1 FROM x
    WHERE x.was IS NOT NULL AND x.due_in IS NULL AND (x.nth IN (SELECT nth FROM u)) IS TRUE
  UNION ALL SELECT NULL, '', -1::int2, -1 FROM cleared),
y AS (
  INSERT INTO @.tally AS y (writer, tenant, pool, state, n)
  SELECT $30::int8, coalesce('=' || tenant, ''), pool, state, sum(n) FROM moved GROUP BY 2, 3, 4 HAVING sum(n) <> 0
  ORDER BY 2, 3, 4
  ON CONFLICT (writer, tenant, pool, state) DO UPDATE SET n = y.n + EXCLUDED.n)
SELECT nth FROM u UNION ALL SELECT nth FROM d
