//! The truth table: what control does about a sandbox, given its row and what the sandbox's host says of it.
//!
//! Plain code: no clock, no database, no network. Rows were read *before* the host was asked, and every verdict is
//! carried out as a compare-and-set on the row as it was read, so a verdict about a row that has changed since does
//! nothing. docs/hosts.md has the table in words.

use std::time::Duration;

use atoll_model::{HostId, SandboxId, SandboxStatus};

use crate::db::Millis;

/// Why an agent paused a sandbox that nobody asked it to pause: it had lost contact with control.
pub const DISCONNECTED: &str = "host_disconnected";

/// Why an agent reports as ended what it knows nothing of but its id: a power cut has torn its record. Its disk is still
/// there, so this is no end, and the agent keeps the disk until it is told to destroy it.
pub const RECORD_DAMAGED: &str = "record_damaged";

/// Why control resumes what an agent had paused by itself.
pub const RECONNECTED: &str = "reconnected";
/// A pause was wanted and its order did not come through; the agent, cut off, has paused by itself. So it stays.
pub const PAUSED_WHILE_CUT_OFF: &str = "paused_while_disconnected";
/// How long such a resume may go unanswered.
const RESUME_AGAIN: Duration = Duration::from_secs(15);

/// Control's view of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    pub id: SandboxId,
    pub host: Option<HostId>,
    pub status: SandboxStatus,
    /// What it was before it went missing.
    pub former: Option<SandboxStatus>,
    pub reason: Option<String>,
    pub generation: u64,
    pub changed_at: Millis,
    /// It is being made on this host, to move there.
    pub moving_to: Option<HostId>,
    /// Of what it may reach.
    pub network_generation: u64,
}

/// What a sandbox is on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Being made, or coming back after a reboot.
    Starting,
    Running,
    Paused,
    /// Its processes are gone; its disk may remain.
    Exited,
}

/// The host's view of a sandbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seen {
    pub id: SandboxId,
    pub state: State,
    pub reason: String,
    pub generation: u64,
    pub exit_code: i32,
    /// Of the policy that is in force there.
    pub network_generation: u64,
}

/// What the verdicts depend on besides the two views.
#[derive(Debug, Clone)]
pub struct Rules {
    pub now: Millis,
    /// The host has found all its sandboxes again: one that it doesn't name isn't there.
    pub inventory_complete: bool,
    /// A sandbox in a transitional status for longer is brought to its host's truth.
    pub transition_limit: Duration,
    /// When this control plane began, if it is the only one: what was in transition before has nobody who finishes it.
    pub alone_since: Option<Millis>,
    /// Control has this long to claim a sandbox that it doesn't know.
    pub orphan_grace: Duration,
    /// Sandboxes that were paused for loss of contact are resumed.
    pub resume_on_reconnect: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Both agree, or it is too early to say.
    Leave,
    /// The row becomes what the host says; then the host is told that control knows, unless it is an error.
    Become { status: SandboxStatus, reason: Option<String> },
    /// It was paused for loss of contact, and contact is back: the row becomes paused if it isn't, and control orders
    /// the resume.
    Resume,
    /// What lives there is not wanted there. `known` when control has (or had) a row for it.
    Destroy { known: bool },
}

/// Judges a sandbox that control believes to be on this host and not stopped.
#[must_use]
pub fn judge(row: &Row, seen: Option<&Seen>, rules: &Rules) -> Verdict {
    use SandboxStatus::{Error, Missing, Paused, Pausing, Running, Stopped};
    if row.status.is_final() {
        return Verdict::Leave;
    }
    if row.status.is_transitional() && rules.now.since(row.changed_at) < limit_of(row, rules) {
        return Verdict::Leave;
    }
    let turned =
        |status, reason: &str| Verdict::Become { status, reason: (!reason.is_empty()).then(|| reason.to_owned()) };
    let Some(seen) = seen else {
        return match row.status {
            _ if !rules.inventory_complete => Verdict::Leave,
            Missing | Running => turned(Stopped, "lost"),
            Paused => turned(Error, "snapshot_lost"),
            Error => Verdict::Leave,
            // Longer in transition than anything takes, and nothing of it is there.
            transitional => turned(Error, &format!("{transitional}_interrupted")),
        };
    };
    let disconnected = seen.reason == DISCONNECTED && rules.resume_on_reconnect;
    match (row.status, seen.state) {
        // It is still on its way on the host, which has deadlines of its own.
        (_, State::Starting) | (Running, State::Running) => Verdict::Leave,
        (Stopped, _) => Verdict::Leave,
        (Error, State::Exited) if seen.reason == RECORD_DAMAGED => Verdict::Leave,
        (_, State::Exited) if seen.reason == RECORD_DAMAGED => turned(Error, RECORD_DAMAGED),
        (_, State::Exited) => turned(Stopped, &ending(seen)),
        (_, State::Running) => turned(Running, ""),
        (Pausing, State::Paused) if disconnected => turned(Paused, PAUSED_WHILE_CUT_OFF),
        (Missing, State::Paused) if disconnected && row.former == Some(Pausing) => turned(Paused, PAUSED_WHILE_CUT_OFF),
        (Paused, State::Paused) if row.reason.as_deref() == Some(PAUSED_WHILE_CUT_OFF) => Verdict::Leave,
        (_, State::Paused) if disconnected => Verdict::Resume,
        (Paused, State::Paused) => Verdict::Leave,
        (_, State::Paused) => turned(Paused, &seen.reason),
    }
}

/// Whether a host is to be told what a sandbox may reach: it has not heard of the last change.
#[must_use]
pub fn lacks_policy(row: &Row, seen: &Seen) -> bool {
    row.status != SandboxStatus::Stopped
        && matches!(seen.state, State::Running | State::Paused)
        && seen.network_generation < row.network_generation
}

/// How long a row may be in transition before its host's truth counts.
fn limit_of(row: &Row, rules: &Rules) -> Duration {
    if rules.alone_since.is_some_and(|began| row.changed_at < began) {
        return Duration::ZERO;
    }
    // Ordered by a pass like this one, whose answer was lost: the next one orders again.
    if row.status == SandboxStatus::Resuming && row.reason.as_deref() == Some(RECONNECTED) {
        return RESUME_AGAIN.min(rules.transition_limit);
    }
    rules.transition_limit
}

/// Judges something that a host has and that is not among the rows that control has for the host. `row` is what
/// control knows of it otherwise, `first_seen` when this began.
#[must_use]
pub fn judge_stray(row: Option<&Row>, here: &HostId, first_seen: Millis, rules: &Rules) -> Verdict {
    match row {
        // Its row came to this host after the rows were read: next time.
        Some(row) if !row.status.is_final() && row.host.as_ref() == Some(here) => Verdict::Leave,
        // Placed nowhere yet, or stopped, or moved to another host: nothing should be here. Being placed is quick.
        Some(row) if !row.status.is_final() && row.host.is_none() => Verdict::Leave,
        // It is on its way here.
        Some(row) if row.status == SandboxStatus::Paused && row.moving_to.as_ref() == Some(here) => Verdict::Leave,
        Some(_) => Verdict::Destroy { known: true },
        None if rules.now.since(first_seen) >= rules.orphan_grace => Verdict::Destroy { known: false },
        None => Verdict::Leave,
    }
}

/// How it ended, for the row: the reason, and the exit code where that says more.
fn ending(seen: &Seen) -> String {
    match seen.reason.as_str() {
        "" | "exited" => format!("exited with code {}", seen.exit_code),
        reason => reason.to_owned(),
    }
}
