//! What is true of control's tables whenever nothing is under way, however the last thing ended: nothing half-written.
//! Each is a query for what breaks it.

use crate::cluster::Postgres;

const INVARIANTS: [(&str, &str); 15] = [
    (
        "a team has an owner",
        "SELECT id FROM teams t WHERE NOT EXISTS
             (SELECT 1 FROM team_members m WHERE m.team_id = t.id AND m.role = 'owner')",
    ),
    (
        "a session that lives is in a team of its person",
        "SELECT s.id FROM sessions s WHERE s.revoked_at IS NULL AND NOT EXISTS
             (SELECT 1 FROM team_members m WHERE m.team_id = s.team_id AND m.user_id = s.user_id)",
    ),
    (
        "a key was audited once as made",
        "SELECT k.id FROM api_keys k WHERE 1 <>
             (SELECT COUNT(*) FROM audit_logs a WHERE a.action = 'api_key.create' AND a.target_id = k.id)",
    ),
    (
        "a key that was audited as made is there, or was audited as deleted, or went with its team",
        "SELECT a.target_id FROM audit_logs a WHERE a.action = 'api_key.create'
             AND NOT EXISTS (SELECT 1 FROM api_keys k WHERE k.id = a.target_id)
             AND NOT EXISTS (SELECT 1 FROM audit_logs d WHERE d.action = 'api_key.delete' AND d.target_id = a.target_id)
             AND EXISTS (SELECT 1 FROM teams t WHERE t.id = a.team_id)",
    ),
    (
        "a key that was audited as deleted is gone, and was audited so once",
        "SELECT d.target_id FROM audit_logs d WHERE d.action = 'api_key.delete' GROUP BY d.target_id
             HAVING COUNT(*) > 1 OR EXISTS (SELECT 1 FROM api_keys k WHERE k.id = d.target_id)",
    ),
    (
        "a team that was audited as made is there or was audited as deleted",
        "SELECT a.target_id FROM audit_logs a WHERE a.action = 'team.create'
             AND EXISTS (SELECT 1 FROM teams t WHERE t.id = a.target_id)
                 = EXISTS (SELECT 1 FROM audit_logs d WHERE d.action = 'team.delete' AND d.target_id = a.target_id)",
    ),
    (
        "every key, team and sandbox there is has one event of its making",
        "SELECT t.id FROM (SELECT id, 'api_key.created' AS type FROM api_keys UNION ALL
                 SELECT id, 'team.created' FROM teams UNION ALL SELECT id, 'sandbox.created' FROM sandboxes) t
             WHERE 1 <> (SELECT COUNT(*) FROM events e WHERE e.type = t.type AND e.subject_id = t.id)",
    ),
    (
        "a thing was deleted once if it is gone, and never if it is there",
        "SELECT made.subject_id FROM events made WHERE made.type IN ('api_key.created', 'team.created')
             AND (SELECT COUNT(*) FROM events gone WHERE gone.subject_id = made.subject_id
                      AND gone.type = REPLACE(made.type, '.created', '.deleted'))
                 <> CASE WHEN EXISTS (SELECT 1 FROM api_keys k WHERE k.id = made.subject_id)
                     OR EXISTS (SELECT 1 FROM teams t WHERE t.id = made.subject_id) THEN 0 ELSE 1 END",
    ),
    (
        "who is in a team is whom the events have put and left there",
        "SELECT COALESCE(e.team_id, m.team_id), COALESCE(e.subject_id, m.user_id) FROM
             (SELECT team_id, subject_id, SUM(CASE type WHEN 'member.created' THEN 1 ELSE -1 END) AS there
                  FROM events WHERE type IN ('member.created', 'member.deleted') GROUP BY team_id, subject_id) e
             FULL JOIN team_members m ON m.team_id = e.team_id AND m.user_id = e.subject_id
             WHERE COALESCE(e.there, 0) <> CASE WHEN m.user_id IS NULL THEN 0 ELSE 1 END",
    ),
    (
        "a sandbox is what its last event says",
        "SELECT s.id FROM sandboxes s WHERE s.status <>
             (SELECT e.status FROM sandbox_events e WHERE e.sandbox_id = s.id ORDER BY e.id DESC LIMIT 1)",
    ),
    (
        "a team's sandbox was audited as made",
        "SELECT s.id FROM sandboxes s WHERE s.purpose = '' AND 1 <>
             (SELECT COUNT(*) FROM audit_logs a WHERE a.action IN ('sandbox.create', 'sandbox.fork') AND a.target_id = s.id)",
    ),
    (
        "a sandbox that was audited as deleted has stopped, and one that somebody deleted was audited so",
        "SELECT s.id FROM sandboxes s WHERE (s.status = 'stopped' AND s.reason = 'deleted') <> EXISTS
             (SELECT 1 FROM audit_logs a WHERE a.action = 'sandbox.delete' AND a.target_id = s.id)",
    ),
    (
        "no sandbox is between two states",
        "SELECT id, status FROM sandboxes WHERE status IN ('pending', 'starting', 'pausing', 'resuming')",
    ),
    (
        "no request with an Idempotency-Key is under way",
        "SELECT owner, key FROM idempotency_keys WHERE status IS NULL",
    ),
    (
        "what was answered to a request with an Idempotency-Key was made",
        "SELECT i.key FROM idempotency_keys i WHERE i.response::jsonb ->> 'id' LIKE 'team-%' AND NOT EXISTS
             (SELECT 1 FROM audit_logs a WHERE a.action = 'team.create' AND a.target_id = i.response::jsonb ->> 'id')",
    ),
];

/// Everything that breaks one of them, for people. Nothing, if all is well.
pub fn broken(postgres: &Postgres) -> Vec<String> {
    let rows = INVARIANTS.iter().map(|(what, sql)| (what, postgres.query(sql)));
    rows.filter(|(_, rows)| !rows.is_empty()).map(|(what, rows)| format!("{what}; but not: {rows}")).collect()
}
