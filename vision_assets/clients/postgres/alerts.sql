-- name: lock()!
-- Evaluations are taken in one after the other: who comes second finds the states of the first.
SELECT pg_advisory_xact_lock(hashtextextended('vision_assets: alerts', 0));

-- name: states(sources, subjects, checks, partitions)
-- States of these keys, and of whatever is open or flaps.
SELECT s.*
FROM unnest(:sources::text[], :subjects::text[], :checks::text[], :partitions::text[])
    AS k (source, subject, check_name, partition_key)
JOIN alert_states s USING (source, subject, check_name, partition_key)
UNION
SELECT s.* FROM alert_states s WHERE s.severity IS NOT NULL OR s.is_flapping;

-- name: tenants(ids)
-- The active tenants among these.
SELECT id::text AS partition_key, name FROM tenants WHERE active AND id = ANY(:ids::uuid[]);

-- name: save_states(sources, subjects, checks, partitions, severities, failed_as, messages, run_ids, evaluated, event_ids, opened, told, changes, flapping)!
-- Afterwards the states are these.
INSERT INTO alert_states (source, subject, check_name, partition_key, severity, failed_as, message, run_id, evaluated_at,
                          event_id, opened_at, told_at, changes, is_flapping)
SELECT source, subject, check_name, partition_key, severity, failed_as, message, run_id, evaluated_at,
       event_id, opened_at, told_at, changes::timestamptz[], is_flapping
FROM unnest(:sources::text[], :subjects::text[], :checks::text[], :partitions::text[], :severities::text[],
            :failed_as::text[], :messages::text[], :run_ids::text[], :evaluated::timestamptz[], :event_ids::bigint[],
            :opened::timestamptz[], :told::timestamptz[], :changes::text[], :flapping::boolean[])
    AS s (source, subject, check_name, partition_key, severity, failed_as, message, run_id, evaluated_at,
          event_id, opened_at, told_at, changes, is_flapping)
ON CONFLICT (source, subject, check_name, partition_key) DO UPDATE SET
    severity = excluded.severity, failed_as = excluded.failed_as, message = excluded.message, run_id = excluded.run_id,
    evaluated_at = excluded.evaluated_at, event_id = excluded.event_id, opened_at = excluded.opened_at,
    told_at = excluded.told_at, changes = excluded.changes, is_flapping = excluded.is_flapping;

-- name: insert_events(sources, subjects, checks, partitions, events, kinds, severities, failed_as, messages, run_ids, opened, happened, tenants)!
-- What people are to be told, in this order, and each once: a key and what brought its change are there only once.
INSERT INTO alert_events (source, subject, check_name, partition_key, event, kind, severity, failed_as, message, run_id,
                          opened_at, happened_at, tenant)
SELECT source, subject, check_name, partition_key, event, kind, severity, failed_as, message, run_id,
       opened_at, happened_at, tenant
FROM unnest(:sources::text[], :subjects::text[], :checks::text[], :partitions::text[], :events::text[], :kinds::text[],
            :severities::text[], :failed_as::text[], :messages::text[], :run_ids::text[], :opened::timestamptz[],
            :happened::timestamptz[], :tenants::text[]) WITH ORDINALITY
    AS e (source, subject, check_name, partition_key, event, kind, severity, failed_as, message, run_id,
          opened_at, happened_at, tenant, place)
ORDER BY place
ON CONFLICT DO NOTHING;

-- name: waiting()
-- What people are to be told and no message has yet, in its order.
SELECT * FROM alert_events WHERE message_seq IS NULL ORDER BY seq;

-- name: lately(after)
-- When the last message about many was made, and how many about one, by what they are about.
SELECT source, subject, check_name, kind,
       max(created_at) FILTER (WHERE grouped) AS grouped_at, count(*) FILTER (WHERE NOT grouped) AS alone
FROM alert_messages WHERE created_at > :after
GROUP BY source, subject, check_name, kind;

-- name: insert_message(id, kind, source, subject, check_name, grouped, now, event_seqs, channels)!
-- A message with its events, and a delivery for each channel.
WITH message AS (
    INSERT INTO alert_messages (id, kind, source, subject, check_name, grouped, created_at)
    VALUES (:id, :kind, :source, :subject, :check_name, :grouped, :now)
    RETURNING seq
), events AS (
    UPDATE alert_events e SET message_seq = message.seq FROM message WHERE e.seq = ANY(:event_seqs::bigint[])
)
INSERT INTO alert_deliveries (message_seq, channel, next_at)
SELECT message.seq, channel, :now FROM message, unnest(:channels::text[]) AS channel;

-- name: prune(before)!
-- Old messages go, with their events and deliveries.
DELETE FROM alert_messages WHERE created_at < :before;

-- name: open_states(source)
-- What is wrong or flaps, the newest first; of one source, or of both.
SELECT s.*, t.name AS tenant
FROM alert_states s
LEFT JOIN tenants t ON t.id::text = s.partition_key
WHERE (s.severity IS NOT NULL OR s.is_flapping) AND (:source::text IS NULL OR s.source = :source)
ORDER BY coalesce(s.opened_at, s.evaluated_at) DESC, s.source, s.subject, s.check_name, s.partition_key;

-- name: try_lock_channel(channel)$
-- One sender at a time over a channel, until the connection is given back.
SELECT pg_try_advisory_lock(hashtextextended('vision_assets: alerts over ' || :channel, 0));

-- name: first_delivery(channel)^
-- The earliest message that is still to go out.
SELECT d.state, d.parts_sent, d.attempts, d.next_at, d.error, m.*
FROM alert_deliveries d
JOIN alert_messages m ON m.seq = d.message_seq
WHERE d.channel = :channel AND d.state IN ('pending', 'sending')
ORDER BY d.message_seq
LIMIT 1;

-- name: events(message_seq)
-- What a message tells.
SELECT * FROM alert_events WHERE message_seq = :message_seq ORDER BY seq;

-- name: begin(message_seq, channel)!
-- From here on it may have arrived.
UPDATE alert_deliveries SET state = 'sending', attempts = attempts + 1
WHERE message_seq = :message_seq AND channel = :channel;

-- name: part_sent(message_seq, channel)!
-- One more piece has arrived.
UPDATE alert_deliveries SET parts_sent = parts_sent + 1 WHERE message_seq = :message_seq AND channel = :channel;

-- name: wait(message_seq, channel, next_at, error)!
-- It is tried again.
UPDATE alert_deliveries SET state = 'pending', next_at = :next_at, error = :error
WHERE message_seq = :message_seq AND channel = :channel;

-- name: end_delivery(message_seq, channel, state, now, error)!
-- It is not tried again.
UPDATE alert_deliveries SET state = :state, ended_at = :now, error = :error
WHERE message_seq = :message_seq AND channel = :channel;

-- name: recent_deliveries(row_limit)
-- The newest messages, and what became of each over each channel.
SELECT m.*, d.channel, d.state, d.attempts, d.next_at, d.error
FROM (SELECT * FROM alert_messages ORDER BY seq DESC LIMIT :row_limit) m
LEFT JOIN alert_deliveries d ON d.message_seq = m.seq
ORDER BY m.seq DESC, d.channel;
