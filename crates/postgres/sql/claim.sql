-- Comes after the parts "clock" and "pools". $1 worker, $2 the most tasks to claim, $3 lease, $4 newest format that
-- this build reads, $5 writer of the tally, $6 pools, $7 their maxima, $8 the maximum of all other pools together,
-- $9 whether a suspect task may be claimed.
named AS MATERIALIZED (SELECT * FROM unnest($6::text[], $7::int8[]) AS named(pool, most)),
ask AS MATERIALIZED (
  SELECT p.pool, p.first, n.pool AS kind, coalesce(n.most, $8::int8) AS most
  FROM pools p LEFT JOIN named n ON n.pool = p.pool),
held AS MATERIALIZED (SELECT 1 FROM @.task h WHERE h.worker = $1 AND h.state IN (1, 3) AND h.suspect LIMIT 1),
-- Records of a newer build are excluded here: if they were skipped later, they would block the head of the queue for
-- ever. "+ 0" keeps the planner from the index on expires_at, with which it would sort the whole queue.
calm AS MATERIALIZED (
  SELECT c.id, c.run_at, a.kind, a.most FROM ask a CROSS JOIN LATERAL (
    SELECT t.id, t.run_at FROM @.task t
    WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool = a.pool
      AND t.run_at >= a.first AND t.run_at <= (SELECT now FROM clock)
      AND t.expires_at + 0 > (SELECT now FROM clock) AND t.format <= $4
    ORDER BY t.run_at, t.id LIMIT least(a.most, $2::int8) FOR NO KEY UPDATE SKIP LOCKED) c),
wary AS MATERIALIZED (
  SELECT t.id, t.run_at, (SELECT n.pool FROM named n WHERE n.pool = t.pool) AS kind,
    coalesce((SELECT n.most FROM named n WHERE n.pool = t.pool), $8) AS most
  FROM @.task t
  WHERE t.state IN (0, 2) AND t.suspect AND t.run_at <= (SELECT now FROM clock)
    AND t.expires_at + 0 > (SELECT now FROM clock) AND t.format <= $4
    AND $9::bool AND NOT EXISTS (SELECT FROM held)
    AND coalesce((SELECT n.most FROM named n WHERE n.pool = t.pool), $8) > 0
  ORDER BY t.run_at, t.id LIMIT 1 FOR NO KEY UPDATE OF t SKIP LOCKED),
both_kinds AS (SELECT *, false AS suspect FROM calm UNION ALL SELECT *, true FROM wary),
ranked AS (SELECT *, row_number() OVER (PARTITION BY kind ORDER BY run_at, id) AS k FROM both_kinds),
chosen AS MATERIALIZED (SELECT id, kind, suspect FROM ranked WHERE k <= most ORDER BY run_at, id LIMIT $2),
-- The next due task of the pools that are below their maximum.
next AS (
  SELECT min(n.run_at) AS run_at FROM ask a CROSS JOIN LATERAL (
    SELECT t.run_at FROM @.task t
    WHERE t.state IN (0, 2) AND NOT t.suspect AND t.pool = a.pool AND t.run_at >= a.first
      AND t.expires_at + 0 > (SELECT now FROM clock) AND t.format <= $4 AND t.id <> ALL (ARRAY(SELECT id FROM chosen))
    ORDER BY t.run_at, t.id LIMIT 1) n
  WHERE a.most > (SELECT count(*) FROM chosen c WHERE c.kind IS NOT DISTINCT FROM a.kind)),
next_suspect AS (
  SELECT t.run_at FROM @.task t
  WHERE t.state IN (0, 2) AND t.suspect AND t.expires_at + 0 > (SELECT now FROM clock) AND t.format <= $4
    AND NOT EXISTS (SELECT FROM held) AND NOT EXISTS (SELECT FROM chosen c WHERE c.suspect)
    AND coalesce((SELECT n.most FROM named n WHERE n.pool = t.pool), $8)
      > (SELECT count(*) FROM chosen c WHERE c.kind IS NOT DISTINCT FROM (SELECT n.pool FROM named n WHERE n.pool = t.pool))
  ORDER BY t.run_at, t.id LIMIT 1),
