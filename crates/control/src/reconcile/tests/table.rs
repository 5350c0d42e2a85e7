//! The truth table, every row and some in between.

use std::time::Duration;

use atoll_model::SandboxStatus::{
    self, Error, Missing, Paused, Pausing, Pending, Resuming, Running, Starting, Stopped,
};
use atoll_model::{HostId, SandboxId};
use proptest::prelude::*;

use super::super::judge::{
    DISCONNECTED, PAUSED_WHILE_CUT_OFF, RECORD_DAMAGED, Row, Rules, Seen, State, Verdict, judge, judge_stray,
    lacks_policy,
};
use crate::db::Millis;

const NOW: Millis = Millis(10_000_000);
const LIMIT: Duration = Duration::from_secs(120);

fn rules() -> Rules {
    Rules {
        now: NOW,
        inventory_complete: true,
        transition_limit: LIMIT,
        alone_since: None,
        orphan_grace: LIMIT,
        resume_on_reconnect: true,
    }
}

fn row(status: SandboxStatus) -> Row {
    Row {
        id: SandboxId::new(),
        host: None,
        status,
        former: None,
        reason: None,
        generation: 3,
        changed_at: NOW - LIMIT,
        moving_to: None,
        network_generation: 0,
    }
}

fn seen(state: State, reason: &str) -> Option<Seen> {
    Some(Seen {
        id: SandboxId::new(),
        state,
        reason: reason.to_owned(),
        generation: 3,
        exit_code: 7,
        network_generation: 0,
    })
}

fn turned(status: SandboxStatus, reason: &str) -> Verdict {
    Verdict::Become { status, reason: (!reason.is_empty()).then(|| reason.to_owned()) }
}

#[test]
fn what_nobody_finishes_any_more_is_brought_to_its_hosts_truth_at_once() {
    let fresh = |status, reason: Option<&str>, age: u64| Row {
        changed_at: NOW - Duration::from_secs(age),
        reason: reason.map(str::to_owned),
        ..row(status)
    };
    // A server that is the only one was started again a second ago.
    let alone = Rules { alone_since: Some(NOW - Duration::from_secs(1)), ..rules() };
    assert_eq!(judge(&fresh(Starting, None, 2), None, &alone), turned(Error, "starting_interrupted"));
    assert_eq!(judge(&fresh(Starting, None, 2), seen(State::Running, "").as_ref(), &alone), turned(Running, ""));
    assert_eq!(judge(&fresh(Starting, None, 0), None, &alone), Verdict::Leave);
    assert_eq!(judge(&fresh(Starting, None, 2), None, &rules()), Verdict::Leave);
    // A resume after contact came back, whose answer was lost.
    let lost =
        |age| judge(&fresh(Resuming, Some("reconnected"), age), seen(State::Paused, DISCONNECTED).as_ref(), &rules());
    assert_eq!((lost(5), lost(20)), (Verdict::Leave, Verdict::Resume));
}

#[test]
fn a_pause_that_a_partition_has_cut_off_is_no_reason_to_go_on() {
    let cut = seen(State::Paused, DISCONNECTED);
    let missing = Row { former: Some(Pausing), ..row(Missing) };
    for row in [row(Pausing), missing] {
        assert_eq!(judge(&row, cut.as_ref(), &rules()), turned(Paused, PAUSED_WHILE_CUT_OFF));
    }
    // The agent goes on saying why it paused.
    let kept = Row { reason: Some(PAUSED_WHILE_CUT_OFF.to_owned()), ..row(Paused) };
    assert_eq!(judge(&kept, cut.as_ref(), &rules()), Verdict::Leave);
    let ran = Row { former: Some(Running), ..row(Missing) };
    assert_eq!(judge(&ran, cut.as_ref(), &rules()), Verdict::Resume);
}

#[test]
fn every_row_of_the_table() {
    let cases = [
        // control's view, the agent's list, the verdict
        (Missing, seen(State::Running, ""), turned(Running, "")),
        (Missing, seen(State::Paused, DISCONNECTED), Verdict::Resume),
        (Paused, seen(State::Running, ""), turned(Running, "")),
        (Missing, seen(State::Paused, "ttl"), turned(Paused, "ttl")),
        (Running, seen(State::Exited, "out_of_memory"), turned(Stopped, "out_of_memory")),
        (Missing, seen(State::Exited, "out_of_memory"), turned(Stopped, "out_of_memory")),
        (Running, seen(State::Exited, "exited"), turned(Stopped, "exited with code 7")),
        (Paused, seen(State::Exited, "exited"), turned(Stopped, "exited with code 7")),
        (Running, seen(State::Exited, "record_damaged"), turned(Error, "record_damaged")),
        (Missing, seen(State::Exited, "record_damaged"), turned(Error, "record_damaged")),
        (Paused, seen(State::Exited, "record_damaged"), turned(Error, "record_damaged")),
        (Starting, seen(State::Exited, "record_damaged"), turned(Error, "record_damaged")),
        (Error, seen(State::Exited, "record_damaged"), Verdict::Leave),
        (Error, seen(State::Exited, "exited"), turned(Stopped, "exited with code 7")),
        (Running, seen(State::Paused, "restart_failed"), turned(Paused, "restart_failed")),
        (Error, seen(State::Running, ""), turned(Running, "")),
        (Error, seen(State::Paused, "user"), turned(Paused, "user")),
        (Missing, None, turned(Stopped, "lost")),
        (Running, None, turned(Stopped, "lost")),
        (Running, seen(State::Paused, "ttl"), turned(Paused, "ttl")),
        (Running, seen(State::Paused, DISCONNECTED), Verdict::Resume),
        (Paused, seen(State::Paused, DISCONNECTED), Verdict::Resume),
        (Pending, None, turned(Error, "pending_interrupted")),
        (Starting, None, turned(Error, "starting_interrupted")),
        (Pausing, None, turned(Error, "pausing_interrupted")),
        (Resuming, None, turned(Error, "resuming_interrupted")),
        (Starting, seen(State::Running, ""), turned(Running, "")),
        (Pausing, seen(State::Running, ""), turned(Running, "")),
        (Pausing, seen(State::Paused, "user"), turned(Paused, "user")),
        (Resuming, seen(State::Paused, "user"), turned(Paused, "user")),
        (Resuming, seen(State::Running, ""), turned(Running, "")),
        (Starting, seen(State::Exited, "exited"), turned(Stopped, "exited with code 7")),
        (Paused, None, turned(Error, "snapshot_lost")),
        // Both agree, or the host is still at it.
        (Running, seen(State::Running, ""), Verdict::Leave),
        (Paused, seen(State::Paused, "user"), Verdict::Leave),
        (Missing, seen(State::Starting, ""), Verdict::Leave),
        (Running, seen(State::Starting, ""), Verdict::Leave),
        (Error, None, Verdict::Leave),
        (Stopped, None, Verdict::Leave),
        (Stopped, seen(State::Running, ""), Verdict::Leave),
    ];
    for (status, seen, expected) in cases {
        assert_eq!(judge(&row(status), seen.as_ref(), &rules()), expected, "{status} and {seen:?}");
    }
}

#[test]
fn a_sandbox_on_its_way_is_left_alone_until_its_time_is_up() {
    for status in [Pending, Starting, Pausing, Resuming] {
        let young = Row { changed_at: NOW - (LIMIT - Duration::from_millis(1)), ..row(status) };
        for seen in [None, seen(State::Running, ""), seen(State::Paused, "x"), seen(State::Exited, "x")] {
            assert_eq!(judge(&young, seen.as_ref(), &rules()), Verdict::Leave, "{status} and {seen:?}");
        }
    }
}

#[test]
fn with_stay_paused_contact_alone_resumes_nothing() {
    let rules = Rules { resume_on_reconnect: false, ..rules() };
    let paused = seen(State::Paused, DISCONNECTED);
    assert_eq!(judge(&row(Missing), paused.as_ref(), &rules), turned(Paused, DISCONNECTED));
    assert_eq!(judge(&row(Paused), paused.as_ref(), &rules), Verdict::Leave);
}

#[test]
fn strays() {
    let (here, there) = (HostId::new(), HostId::new());
    let on = |status, host: &HostId| Row { host: Some(host.clone()), ..row(status) };
    let cases = [
        ("stopped", Some(on(Stopped, &here)), NOW, Verdict::Destroy { known: true }),
        ("moved away", Some(on(Running, &there)), NOW, Verdict::Destroy { known: true }),
        ("moves here", Some(Row { moving_to: Some(here.clone()), ..on(Paused, &there) }), NOW, Verdict::Leave),
        (
            "moves elsewhere",
            Some(Row { moving_to: Some(there.clone()), ..on(Paused, &there) }),
            NOW,
            Verdict::Destroy { known: true },
        ),
        (
            "was resumed",
            Some(Row { moving_to: Some(here.clone()), ..on(Running, &there) }),
            NOW,
            Verdict::Destroy { known: true },
        ),
        ("just placed", Some(on(Starting, &here)), NOW, Verdict::Leave),
        ("not placed", Some(row(Pending)), NOW, Verdict::Leave),
        ("unknown, new", None, NOW - (LIMIT - Duration::from_millis(1)), Verdict::Leave),
        ("unknown, old", None, NOW - LIMIT, Verdict::Destroy { known: false }),
    ];
    for (what, row, since, expected) in cases {
        assert_eq!(judge_stray(row.as_ref(), &here, since, &rules()), expected, "{what}");
    }
}

#[test]
fn a_host_is_told_what_a_sandbox_may_reach_when_it_has_missed_that() {
    let newer = |status| Row { network_generation: 4, ..row(status) };
    let at = |state, network_generation| Seen { network_generation, ..seen(state, "").unwrap() };
    assert!(lacks_policy(&newer(Running), &at(State::Running, 3)));
    assert!(lacks_policy(&newer(Paused), &at(State::Paused, 0)));
    // One that was out of sight goes on under what it was told meanwhile.
    assert!(lacks_policy(&newer(Missing), &at(State::Paused, 3)));
    assert!(!lacks_policy(&newer(Running), &at(State::Running, 4)));
    // A change that came after the rows were read.
    assert!(!lacks_policy(&newer(Running), &at(State::Running, 5)));
    assert!(!lacks_policy(&newer(Stopped), &at(State::Running, 3)));
    assert!(!lacks_policy(&newer(Running), &at(State::Exited, 3)));
}

fn any_status() -> impl Strategy<Value = SandboxStatus> {
    (0..SandboxStatus::ALL.len()).prop_map(|index| SandboxStatus::ALL[index])
}

fn any_seen() -> impl Strategy<Value = Option<Seen>> {
    let state = prop_oneof![Just(State::Starting), Just(State::Running), Just(State::Paused), Just(State::Exited)];
    let reason = prop_oneof![Just(""), Just("user"), Just("ttl"), Just(DISCONNECTED), Just(RECORD_DAMAGED)];
    prop::option::of((state, reason).prop_map(|(state, reason)| seen(state, reason).unwrap()))
}

proptest! {
    #[test]
    fn nothing_that_lives_is_ever_stopped_and_every_verdict_is_legal(
        status in any_status(), seen in any_seen(), complete: bool, resume: bool, age in 0..400_000i64,
    ) {
        let row = Row { changed_at: Millis(NOW.0 - age), ..row(status) };
        let rules = Rules { inventory_complete: complete, resume_on_reconnect: resume, ..rules() };
        match judge(&row, seen.as_ref(), &rules) {
            Verdict::Become { status: next, .. } => {
                prop_assert!(status.can_become(next), "{} to {}", status, next);
                if matches!(next, Stopped | Error) {
                    // Ended only by the host's own word, or by a complete list that doesn't name it.
                    match &seen {
                        Some(seen) => prop_assert_eq!(seen.state, State::Exited),
                        None => prop_assert!(complete),
                    }
                }
            }
            Verdict::Resume => prop_assert!(status == Paused || status.can_become(Paused)),
            Verdict::Leave => {}
            Verdict::Destroy { .. } => prop_assert!(false, "a row of this host is never an orphan"),
        }
    }

    /// Judged again after the verdict was carried out, there is nothing left to do.
    #[test]
    fn a_verdict_settles_the_matter(status in any_status(), seen in any_seen()) {
        let mut row = row(status);
        if let Verdict::Become { status: next, reason } = judge(&row, seen.as_ref(), &rules()) {
            (row.status, row.reason) = (next, reason);
            prop_assert_eq!(judge(&row, seen.as_ref(), &rules()), Verdict::Leave);
        }
    }
}
