taken AS (
  UPDATE @.task t SET state = 1, version = t.version + 1, token = greatest(t.token, clock.floor) + 1, worker = $1,
    started_at = clock.now, lease_until = clock.now + $3::int8, progress = NULL
  FROM clock WHERE t.id = ANY (ARRAY(SELECT id FROM chosen))
  RETURNING t.*, (SELECT o.state FROM @.task o WHERE o.id = t.id) AS was),
moved AS (SELECT tenant, pool, was AS state, -1 AS n FROM taken UNION ALL SELECT tenant, pool, state, 1 FROM taken),
y AS (
  INSERT INTO @.tally AS y (writer, tenant, pool, state, n)
  SELECT $5::int8, coalesce('=' || tenant, ''), pool, state, sum(n) FROM moved GROUP BY 2, 3, 4 HAVING sum(n) <> 0
  ORDER BY 2, 3, 4
  ON CONFLICT (writer, tenant, pool, state) DO UPDATE SET n = y.n + EXCLUDED.n)
