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

-- Users above 5,000 events on a day, whole.
INSERT INTO dropped
SELECT rowid FROM valid
WHERE user_id IN (
    SELECT user_id FROM valid WHERE rowid NOT IN (FROM dropped)
    GROUP BY user_id, t // 86400000000 HAVING count(*) > 5000
);

-- An import stands for all its days, so what is known ends with its last event's day.
SET VARIABLE watermark_us = (
    SELECT (max(t) // 86400000000 + 1) * 86400000000 FROM valid WHERE rowid NOT IN (FROM dropped)
);

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

-- The narrow table that all windows run over: integers for ids, flags for kinds.
CREATE TEMP TABLE users AS
SELECT user_id, (row_number() OVER ())::INTEGER AS u FROM (SELECT DISTINCT user_id FROM valid);
CREATE TEMP TABLE tracks AS
SELECT track_id, (row_number() OVER ())::INTEGER AS tr FROM (SELECT DISTINCT track_id FROM valid);
CREATE TEMP TABLE artists AS
SELECT artist_id, (row_number() OVER ())::INTEGER AS ar
FROM (SELECT DISTINCT artist_id FROM valid WHERE artist_id IS NOT NULL);

CREATE TEMP TABLE events AS
SELECT
    v.rowid AS r, u, tr, ar, t, received, event_id, event_type, surface,
    event_type = 'play' AS play,
    event_type = 'impression' AS shown,
    CASE WHEN event_type = 'play'
        THEN t + coalesce(least(played_ms * 1000, 86400000000), 0) ELSE t END AS ended,
    played_ms >= 30000 AS streamed,
    CASE WHEN time_quality <> 'sync' THEN coalesce(
        played_ms < 30000 AND coalesce(reason_end, '') NOT IN (
            'trackdone', 'trackerror', 'logout', 'unexpected-exit', 'unexpected-exit-while-paused',
            'appload', 'reload', 'switched-to-audio', 'switched-to-video'),
        source_skip_level >= 2) END AS skipped,
    least(greatest(played_ms / track_duration_ms, 0.0), 1.0) AS completion
FROM valid v JOIN users USING (user_id) LEFT JOIN tracks USING (track_id)
    LEFT JOIN artists USING (artist_id)
WHERE v.rowid NOT IN (FROM dropped)
    AND t >= getvariable('first_us') - 7 * 86400000000
    AND t < getvariable('end_us') + 86400000000;

-- A session is its user and the instant of its start.
CREATE TEMP TABLE makers AS
SELECT
    r, u, t, shown, play, ended, streamed, skipped,
    max(CASE WHEN starts THEN t END) OVER (PARTITION BY u ORDER BY t) AS session_us
FROM (
    SELECT
        r, u, t, shown, play, ended, streamed, skipped,
        coalesce(t - max(ended) OVER (
            PARTITION BY u ORDER BY t ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING
        ) >= 1800000000, true) AS starts
    FROM events WHERE play OR shown
);

-- Running counts of a user's plays, impressions, likes and ended plays. Two lookups in them, at t
-- and at t - 7 days, took half the time of RANGE frames over the same points.
CREATE TEMP TABLE running AS
WITH points AS (
    SELECT u, t AS instant, play, shown, false AS liked, false AS streamed, false AS skipped
    FROM makers
    UNION ALL
    SELECT u, t, false, false, true, false, false FROM events WHERE event_type = 'like'
    UNION ALL
    SELECT u, ended, false, false, false, coalesce(streamed, false), coalesce(skipped, false)
    FROM makers WHERE play
)
SELECT
    u, instant,
    count(*) FILTER (play) OVER so_far AS plays,
    count(*) FILTER (shown) OVER so_far AS impressions,
    count(*) FILTER (liked) OVER so_far AS likes,
    count(*) FILTER (streamed) OVER so_far AS streams,
    count(*) FILTER (skipped) OVER so_far AS skips,
    max(CASE WHEN play THEN instant END) OVER so_far AS last_play_us
FROM points
WINDOW so_far AS (PARTITION BY u ORDER BY instant ROWS UNBOUNDED PRECEDING)
QUALIFY lead(instant) OVER (PARTITION BY u ORDER BY instant) IS DISTINCT FROM instant;

CREATE TEMP TABLE by_user AS
WITH session_starts AS (
    SELECT s.u, s.session_us, x.plays, x.impressions, x.skips
    FROM (SELECT DISTINCT u, session_us FROM makers) s
        ASOF LEFT JOIN running x ON x.u = s.u AND x.instant < s.session_us
)
SELECT
    q.r, q.u, q.t, q.session_us,
    coalesce(b.plays, 0) AS past_plays,
    coalesce(b.plays, 0) - coalesce(a.plays, 0) AS user_plays_7d,
    coalesce(b.impressions, 0) - coalesce(a.impressions, 0) AS user_impressions_7d,
    coalesce(b.likes, 0) - coalesce(a.likes, 0) AS user_likes_7d,
    coalesce(b.streams, 0) - coalesce(a.streams, 0) AS user_streams_7d,
    coalesce(b.skips, 0) - coalesce(a.skips, 0) AS user_skips_7d,
    coalesce(b.plays, 0) - coalesce(s.plays, 0) AS session_plays,
    coalesce(b.impressions, 0) - coalesce(s.impressions, 0) AS session_impressions,
    coalesce(b.skips, 0) - coalesce(s.skips, 0) AS session_skips,
    CASE WHEN b.last_play_us >= q.session_us THEN b.last_play_us END AS session_last_us
FROM (SELECT r, u, t, session_us FROM makers WHERE shown) q
    ASOF LEFT JOIN running b ON b.u = q.u AND b.instant < q.t
    ASOF LEFT JOIN running a ON a.u = q.u AND a.instant < q.t - 604800000000
    JOIN session_starts s ON s.u = q.u AND s.session_us = q.session_us;

CREATE TEMP TABLE by_track AS
SELECT r, user_track_plays_7d, user_track_last_us, user_track_impressions_7d FROM (
    SELECT
        r, shown,
        count(*) FILTER (play) OVER week AS user_track_plays_7d,
        max(CASE WHEN play THEN t END) OVER week AS user_track_last_us,
        count(*) FILTER (shown) OVER week AS user_track_impressions_7d
    FROM events WHERE play OR shown
    WINDOW week AS (PARTITION BY u, tr ORDER BY t
        RANGE BETWEEN 604800000000 PRECEDING AND 1 PRECEDING)
) WHERE shown;

CREATE TEMP TABLE by_artist AS
SELECT r, user_artist_plays_7d FROM (
    SELECT
        r, shown,
        count(*) FILTER (play) OVER (PARTITION BY u, ar ORDER BY t
            RANGE BETWEEN 604800000000 PRECEDING AND 1 PRECEDING) AS user_artist_plays_7d
    FROM events WHERE (play OR shown) AND ar IS NOT NULL
) WHERE shown;

-- The latest ten plays, at each play.
CREATE TEMP TABLE histories AS
SELECT
    u,
    row_number() OVER w AS plays,
    list(track_id) OVER latest AS track_ids,
    list(t) OVER latest AS times
FROM events JOIN tracks USING (tr) WHERE play
WINDOW
    w AS (PARTITION BY u ORDER BY t, event_id),
    latest AS (PARTITION BY u ORDER BY t, event_id ROWS BETWEEN 9 PRECEDING AND CURRENT ROW);

CREATE TEMP TABLE item_days AS
WITH counts AS (
    SELECT
        tr, t // 86400000000 AS event_day, received // 86400000000 AS known_day,
        count(*) FILTER (play) AS plays,
        count(*) FILTER (play AND streamed) AS streams,
        count(*) FILTER (shown) AS impressions
    FROM events WHERE play OR shown GROUP BY ALL
)
SELECT
    tr, day, sum(plays)::BIGINT AS item_plays_7d, sum(streams)::BIGINT AS item_streams_7d,
    sum(impressions)::BIGINT AS item_impressions_7d
FROM counts, unnest(range(greatest(event_day, known_day) + 1, event_day + 8)) AS days(day)
GROUP BY ALL;

-- Each play goes to the latest impression before it, each impression takes its first play.
CREATE TEMP TABLE outcomes AS
WITH plays AS (SELECT r, u, tr, surface, t, event_id FROM events WHERE play),
impressions AS (
    SELECT u, tr, surface, t, max_by(r, event_id) AS r
    FROM events SEMI JOIN plays USING (u, tr, surface)
    WHERE shown GROUP BY ALL
),
credited AS (
    SELECT i.r AS r, p.r AS play, p.t, p.event_id
    FROM plays p ASOF JOIN impressions i
        ON p.u = i.u AND p.tr = i.tr AND p.surface = i.surface AND p.t >= i.t
    WHERE p.t - i.t < 1800000000
),
first AS (SELECT r, min_by(play, (t, event_id)) AS play FROM credited GROUP BY r)
SELECT f.r, e.t AS play_us, e.streamed, e.skipped, e.completion
FROM first f JOIN events e ON e.r = f.play;

CREATE TEMP TABLE actions AS
SELECT u, tr, t, max_by(event_type, event_id) AS what, what IN ('save', 'unsave') AS saving
FROM (SELECT *, event_type IN ('save', 'unsave') AS s FROM events
    WHERE event_type IN ('like', 'unlike', 'save', 'unsave'))
GROUP BY u, tr, t, s;

CREATE TEMP TABLE resolved AS
SELECT
    e.r,
    coalesce(l.what = 'like' AND l.t >= e.t, false) AS liked,
    coalesce(s.what = 'save' AND s.t >= e.t, false) AS saved
FROM (SELECT r, u, tr, t FROM events WHERE shown) e
    ASOF LEFT JOIN (FROM actions WHERE NOT saving) l
        ON l.u = e.u AND l.tr = e.tr AND l.t < e.t + 86400000000
    ASOF LEFT JOIN (FROM actions WHERE saving) s
        ON s.u = e.u AND s.tr = e.tr AND s.t < e.t + 86400000000;

-- A table first: COPY of the query itself runs on one thread and takes twice as long.
CREATE TEMP TABLE ranking AS
SELECT
    v.event_id, v.event_type, make_timestamptz(v.t) AS event_time, v.user_id, v.track_id,
    v.artist_id, v.album_id, v.surface, v.shelf, v.position, v.request_id,
    v.candidate_set_size, v.policy_id, v.model_version, v.propensity, v.is_exploration,
    v.experiment_id, v.variant, v.context_uri, v.shuffle, v.premium, v.platform, v.country,
    v.source,
    CASE WHEN inside THEN hash(v.user_id, session_us) END AS session_id,
    coalesce(h.track_ids[-least(10, user_plays_7d):], []) AS history_track_ids,
    coalesce([(v.t - x) // 1000 FOR x IN h.times[-least(10, user_plays_7d):]], [])
        AS history_ms_ago,
    coalesce(item_plays_7d, 0) AS item_plays_7d,
    coalesce(item_streams_7d, 0) AS item_streams_7d,
    coalesce(item_impressions_7d, 0) AS item_impressions_7d,
    CASE WHEN inside THEN (v.t - session_us) // 1000 END AS session_age_ms,
    CASE WHEN inside THEN session_plays END AS session_plays,
    CASE WHEN inside THEN session_impressions END AS session_impressions,
    CASE WHEN inside THEN session_skips END AS session_skips,
    CASE WHEN inside THEN (v.t - session_last_us) // 1000 END AS session_ms_since_play,
    user_plays_7d, user_impressions_7d, user_likes_7d, user_streams_7d, user_skips_7d,
    user_track_plays_7d,
    (v.t - user_track_last_us) // 1000 AS user_track_ms_since_play,
    user_track_impressions_7d,
    user_artist_plays_7d,
    o.r IS NOT NULL AS label_played,
    (play_us - v.t) // 1000 AS label_play_delay_ms,
    CASE WHEN o.r IS NULL THEN false ELSE o.streamed END AS label_streamed_30s,
    CASE WHEN o.r IS NULL THEN 0.0 ELSE o.completion END AS label_completion,
    CASE WHEN o.r IS NULL THEN false ELSE o.skipped END AS label_skip_2,
    liked AS label_liked,
    saved AS label_saved,
    label_completion * 0.5 + label_liked::DOUBLE * 2.0 + label_saved::DOUBLE * 2.0
        + label_skip_2::DOUBLE * -0.5 + label_streamed_30s::DOUBLE AS label_reward
FROM (SELECT *, t - session_us <= 86400000000 AS inside FROM by_user
    WHERE t >= getvariable('first_us') AND t < getvariable('end_us')
        AND t + 86400000000 <= getvariable('watermark_us')) b
    JOIN valid v ON v.rowid = b.r
    JOIN by_track USING (r)
    LEFT JOIN by_artist USING (r)
    JOIN resolved USING (r)
    LEFT JOIN outcomes o USING (r)
    LEFT JOIN histories h ON h.u = b.u AND h.plays = b.past_plays
    JOIN tracks ON tracks.track_id = v.track_id
    LEFT JOIN item_days d ON d.tr = tracks.tr AND d.day = v.t // 86400000000;

COPY ranking TO '$out' (FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1);
