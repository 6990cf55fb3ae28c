-- Results of other parts of the statement are looked up with IN, not joined: they have no index, so a join would read
-- them once for every row. The planner hashes such a look-up; "IS TRUE" keeps it from making a join of it.
WITH clock AS MATERIALIZED (SELECT @.now_ms() AS now, @timeline AS floor),
-- Empty, and the tally is not read, if no task of the group has a limit.
waiting AS MATERIALIZED (SELECT tenant, pool, sum(n) AS n FROM @.tally WHERE state IN (0, 2) AND $25 GROUP BY 1, 2),
everywhere AS MATERIALIZED (SELECT coalesce(sum(n), 0) AS n FROM waiting),
-- full_by is the limit that refuses the task: 0 none, 1 of all tasks, 2 of its pool, 3 of its tenant. A limit refuses
-- the task if more tasks wait than its room.
s AS MATERIALIZED (
  SELECT s.*, CASE WHEN NOT $25 OR state = 1 THEN 0
    WHEN (SELECT n FROM everywhere) > room THEN 1
    WHEN coalesce((SELECT sum(w.n) FROM waiting w WHERE w.pool = s.pool), 0) > room_in_pool THEN 2
    WHEN tenant IS NOT NULL
      AND coalesce((SELECT sum(w.n) FROM waiting w WHERE w.tenant = '=' || s.tenant), 0) > room_of_tenant THEN 3
    ELSE 0 END AS full_by
  FROM unnest($1::uuid[], $2::int2[], $3::int8[], $4::text[], $5::int8[], $6::int8[], $7::int8[], $8::int2[],
    $9::int8[], $10::text[], $11::text[], $12::text[], $13::text[], $14::bytea[],
    $18::int8[], $19::int8[], $20::int8[], $21::bytea[], $22::int8[], $23::bytea[], $24::int8[])
  WITH ORDINALITY AS s(id, state, token, worker, run_in, expires_in, lease_for, format, generation, tenant, pool, name,
    function, record, room, room_of_tenant, room_in_pool, key, key_for, digest, version, nth)),
-- Takes keys that are new, or whose window has ended. If a task is then not stored, its key is released afterwards.
k AS (
  INSERT INTO @.key AS k (key, id, until, digest)
  SELECT s.key, s.id, clock.now + s.key_for, s.digest FROM s CROSS JOIN clock
  WHERE s.key IS NOT NULL AND full_by = 0
    AND NOT EXISTS (SELECT FROM @.task t WHERE t.id = s.id)
    AND NOT EXISTS (SELECT FROM @.task t WHERE t.name = s.name AND coalesce(t.tenant, '') = coalesce(s.tenant, '')
      AND (t.tenant IS NULL) = (s.tenant IS NULL))
  ORDER BY s.key
  ON CONFLICT (key) DO UPDATE SET id = EXCLUDED.id, until = EXCLUDED.until, digest = EXCLUDED.digest
    WHERE k.until <= (SELECT now FROM clock)
  RETURNING k.id),
-- ON CONFLICT has no target, so that it covers names as well as ids. The rows are sorted, so that the groups of all
-- processes lock in the same order.
i AS (
  INSERT INTO @.task (id, version, state, token, worker, created_at, run_at, expires_at, lease_until, started_at, format,
    generation, tenant, pool, name, function, record)
  SELECT s.id, s.version, s.state, CASE WHEN s.token > 0 THEN greatest(s.token, floor + 1) ELSE 0 END, s.worker, now,
    now + run_in, now + expires_in, now + lease_for,
    CASE WHEN lease_for IS NOT NULL THEN now END, format, generation, tenant, pool, name, function, record
  FROM s CROSS JOIN clock
  WHERE full_by = 0 AND (s.key IS NULL OR s.id IN (SELECT id FROM k))
  ORDER BY s.id ON CONFLICT DO NOTHING RETURNING id, tenant, pool, state),
-- Takes the payloads from the parameters, not from s: s is materialized, so they would be copied once more.
b AS (
  INSERT INTO @.request (id, sum, head, body)
  SELECT * FROM unnest($1::uuid[], $15::int4[], $16::bytea[], $17::bytea[]) AS q(id, sum, head, body)
  WHERE (q.id IN (SELECT id FROM i)) IS TRUE),
y AS (
  INSERT INTO @.tally AS y (writer, tenant, pool, state, n)
  SELECT $26::int8, coalesce('=' || tenant, ''), pool, state, count(*) FROM i GROUP BY 2, 3, 4 ORDER BY 2, 3, 4
  ON CONFLICT (writer, tenant, pool, state) DO UPDATE SET n = y.n + EXCLUDED.n)
SELECT s.full_by, s.id IN (SELECT id FROM i) AS stored, s.id IN (SELECT id FROM k) AS keyed, clock.now, clock.floor
FROM s CROSS JOIN clock ORDER BY s.nth
