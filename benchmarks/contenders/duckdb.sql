-- Raw ListeningEvents to ranking rows, the defaults of specs/ranking.yaml.
-- Variables: raw (glob), first_us, end_us (range of examples), import_end_us (midnight after the
-- import's day). Times are BIGINT microseconds: RANGE frames on integers beat those on timestamps.

-- What is valid, repaired, with the client's clock clamped.
CREATE TEMP TABLE valid AS
SELECT
    event_id, event_type, user_id, track_id, artist_id, album_id, client_id,
    least(epoch_us(event_time), epoch_us(received_time)) AS t,
    epoch_us(received_time) AS received,
    CASE WHEN event_time > received_time THEN 'derived' ELSE time_quality END AS time_quality,
    played_ms, track_duration_ms, reason_end, source_skip_level,
    CASE WHEN surface NOT IN ('home', 'now_playing', 'search', 'library', 'playlist', 'album',
        'artist', 'radio', 'queue', 'other', 'unknown') THEN 'unknown' ELSE surface END AS surface,
    shelf, position, request_id, candidate_set_size, policy_id, model_version, propensity,
    is_exploration, experiment_id, variant, context_uri, shuffle, premium, platform,
    upper(country) AS country, coalesce(source, 'parquet') AS source
FROM read_parquet(getvariable('raw'), hive_partitioning = false)
WHERE event_id <> '' AND user_id <> ''
    AND event_type IN ('play', 'impression', 'like', 'unlike', 'save', 'unsave', 'hide', 'follow')
    AND time_quality IN ('reported', 'derived', 'sync', 'synthetic')
    AND (track_id <> '' OR (event_type = 'follow' AND artist_id IS NOT NULL))
    AND strlen(event_id) <= 1024 AND strlen(user_id) <= 1024
    AND (track_id IS NULL OR strlen(track_id) <= 1024)
    AND epoch_us(received_time) BETWEEN 1009843200000000
        AND getvariable('import_end_us') + 366 * 86400000000
    AND epoch_us(event_time) >= 1009843200000000
    AND epoch_us(event_time) < getvariable('import_end_us')
    AND epoch_us(event_time) - epoch_us(received_time) <= 86400000000
    AND (played_ms IS NULL OR played_ms BETWEEN 0 AND 86400000)
    AND (track_duration_ms IS NULL OR track_duration_ms BETWEEN 1000 AND 86400000)
    AND (propensity IS NULL OR (isfinite(propensity) AND propensity > 0 AND propensity <= 1))
    AND (position IS NULL OR position >= 0)
    AND (candidate_set_size IS NULL OR candidate_set_size >= 1)
    AND (source_skip_level IS NULL OR source_skip_level BETWEEN 0 AND 3);

-- Of each (user, event id) what was received first. Few are repeated, so only those are ranked.
CREATE TEMP TABLE dropped AS
WITH repeated AS (
    SELECT user_id, event_id FROM valid GROUP BY ALL HAVING count(*) > 1
)
SELECT v.rowid AS r
FROM valid v JOIN repeated USING (user_id, event_id)
QUALIFY row_number() OVER (PARTITION BY user_id, event_id ORDER BY received, v.rowid) > 1;

-- Plays that repeat the user's previous play of the track by another client within a minute.
INSERT INTO dropped
SELECT r FROM (
    SELECT
        rowid AS r,
        t - lag(t) OVER w <= 60000000
            AND client_id IS DISTINCT FROM lag(client_id) OVER w AS near
    FROM valid
    WHERE event_type = 'play' AND rowid NOT IN (FROM dropped)
    WINDOW w AS (PARTITION BY user_id, track_id ORDER BY t, event_id)
) WHERE near;
