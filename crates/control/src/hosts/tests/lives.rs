//! Random lives of a host's credentials, with lost answers, crashes, a thief, the passing of time and re-enrolments, on the
//! real rows. After every step: no credential of a family that is not in force works, and a host from which nobody has
//! stolen is never locked out. `ATOLL_SIMULATION_SEED` lives one life again.

use std::collections::BTreeMap;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::Value;

use super::crash::cut_off_after;
use super::*;
use crate::hosts::store;

const STEPS: u32 = 50;
const MINUTE: Duration = Duration::from_secs(60);

struct Life<'a> {
    rig: &'a Rig,
    rng: StdRng,
    host: Agent,
    /// What the host keeps until the current credentials have worked once.
    former: Option<HostCredentials>,
    /// Copied from the host's disk, and what came of that. With the host's key.
    stolen: Vec<HostCredentials>,
    /// Somebody who is not the host has used credentials of the family in force.
    robbed: bool,
    /// All credentials that were ever issued, by family.
    issued: BTreeMap<String, Vec<HostCredentials>>,
    events: Vec<&'static str>,
}

/// The family that an access token names.
fn family_of(credentials: &HostCredentials) -> String {
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let claims = credentials.access_token.split('.').nth(1).expect("claims");
    let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).expect("base64")).expect("JSON");
    claims["fam"].as_str().expect("a family").to_owned()
}

impl Life<'_> {
    fn note(&mut self, credentials: &HostCredentials) {
        self.issued.entry(family_of(credentials)).or_default().push(credentials.clone());
    }

    async fn in_force(&self) -> Option<String> {
        store::get(&self.rig.db, self.host.id()).await.unwrap().unwrap().credential_family
    }

    async fn step(&mut self) {
        match self.rng.random_range(0..12) {
            0..=2 => self.beats("beats").await,
            3..=5 => self.renews().await,
            6 => {
                self.events.push("steals");
                self.stolen.push(self.host.credentials().clone());
            }
            7 => self.thief_acts().await,
            8 => self.passes(MINUTE / 2, "half a minute"),
            9 => self.passes(2 * MINUTE, "two minutes"),
            10 => self.passes(3 * DAY, "three days"),
            _ if self.in_force().await.is_none() => self.enrols_again().await,
            _ => self.passes(8 * DAY, "eight days"),
        }
    }

    fn passes(&mut self, time: Duration, name: &'static str) {
        self.events.push(name);
        self.rig.clock.advance(time);
    }

    async fn beats(&mut self, name: &'static str) {
        self.events.push(name);
        if self.host.beat(&self.rig.hosts).await.is_ok() {
            self.former = None;
        }
    }

    /// Renews as the agent does: with the current credentials, and with the former ones when those are refused.
    async fn renews(&mut self) {
        let token = self.host.credentials().refresh_token.clone();
        let fate = self.rng.random_range(0..4);
        if fate == 0 {
            self.events.push("is cut off while it renews");
            let polls = self.rng.random_range(0..30);
            if let Some(Ok(lost)) = cut_off_after(polls, self.host.present(&self.rig.hosts, &token)).await {
                self.note(&lost);
            }
            return;
        }
        let mut answer = self.host.present(&self.rig.hosts, &token).await;
        if let (Err(_), Some(former)) = (&answer, &self.former) {
            answer = self.host.present(&self.rig.hosts, &former.refresh_token).await;
        }
        let Ok(new) = answer else {
            self.events.push("renews in vain");
            return;
        };
        self.note(&new);
        if fate == 1 {
            self.events.push("renews, and the answer is lost");
            return;
        }
        self.events.push("renews");
        let before = self.host.credentials.replace(new);
        self.former = self.former.take().or(before);
    }

    async fn thief_acts(&mut self) {
        if self.stolen.is_empty() {
            return;
        }
        let which = self.rng.random_range(0..self.stolen.len());
        let credentials = self.stolen[which].clone();
        let in_force = self.in_force().await;
        let done = if self.rng.random() {
            self.events.push("the thief beats");
            self.host.beat_with(&self.rig.hosts, &credentials.access_token).await.is_ok()
        } else {
            self.events.push("the thief renews");
            let new = self.host.present(&self.rig.hosts, &credentials.refresh_token).await;
            if let Ok(new) = &new {
                self.note(new);
                self.stolen[which] = new.clone();
            }
            new.is_ok()
        };
        // Also when it was refused: a replaced token that comes back ends the family.
        self.robbed |= done || in_force.as_ref() == Some(&family_of(&credentials));
    }

    async fn enrols_again(&mut self) {
        self.events.push("enrols again");
        let id = self.host.id().clone();
        let token = self.rig.hosts.renew_registration(&id, &Actor::System, &Origin::default()).await.unwrap();
        let mut fresh = Agent::new();
        fresh.register(&self.rig.hosts, &token.token).await.unwrap();
        // The thief has copied the former key, so what it holds is tried with that one.
        let credentials = fresh.credentials().clone();
        self.note(&credentials);
        self.host = fresh;
        (self.former, self.robbed) = (None, false);
        self.stolen.clear();
    }

    /// What must hold after every step.
    async fn check(&mut self) {
        let in_force = self.in_force().await;
        let over: Vec<HostCredentials> = self
            .issued
            .iter()
            .filter(|(family, _)| in_force.as_ref() != Some(family))
            .flat_map(|(_, credentials)| credentials.clone())
            .collect();
        for _ in 0..over.len().min(2) {
            let credentials = &over[self.rng.random_range(0..over.len())];
            assert!(is_unauthorized(self.host.beat_with(&self.rig.hosts, &credentials.access_token).await));
            assert!(is_unauthorized(self.host.present(&self.rig.hosts, &credentials.refresh_token).await));
        }
        if !self.robbed {
            assert!(in_force.is_some(), "nobody has stolen anything, and the family is revoked");
        }
    }

    /// In the end: whoever was not robbed, and has not slept for longer than a refresh token lives, gets on.
    async fn gets_on(&mut self) {
        if self.robbed || self.host.credentials().refresh_expires_at <= self.rig.clock.now().to_utc() {
            return;
        }
        let token = self.host.credentials().refresh_token.clone();
        let mut new = self.host.present(&self.rig.hosts, &token).await;
        if let (Err(_), Some(former)) = (&new, &self.former) {
            new = self.host.present(&self.rig.hosts, &former.refresh_token).await;
        }
        let new = new.expect("a host from which nobody has stolen is not locked out");
        self.host.beat_with(&self.rig.hosts, &new.access_token).await.expect("and its new credentials work");
    }
}

/// Answers with what happened, for whoever wants to know how much of it there was.
async fn live(rig: &Rig, seed: u64) -> Vec<&'static str> {
    let host = rig.enrolled().await;
    let rng = StdRng::seed_from_u64(seed);
    let (stolen, issued, events) = (Vec::new(), BTreeMap::new(), Vec::new());
    let mut life = Life { rig, rng, host, former: None, stolen, robbed: false, issued, events };
    let first = life.host.credentials().clone();
    life.note(&first);
    let lived = async {
        for _ in 0..STEPS {
            life.step().await;
            life.check().await;
        }
        life.gets_on().await;
    };
    let broken = futures::FutureExt::catch_unwind(std::panic::AssertUnwindSafe(lived)).await.is_err();
    assert!(!broken, "{:?}\nlive it again with ATOLL_SIMULATION_SEED={seed} ({})", life.events, rig.db.kind());
    life.events
}

#[tokio::test]
async fn no_credential_works_after_its_family_and_nobody_is_locked_out_for_what_others_did_not_do() {
    let one: Option<u64> = std::env::var("ATOLL_SIMULATION_SEED").ok().map(|text| text.parse().expect("a number"));
    let mut events: BTreeMap<&str, u32> = BTreeMap::new();
    for (rig, lives) in rigs().await.iter().zip([40, 15]) {
        let seeds = match one {
            Some(seed) => vec![seed],
            // Some that are always the same, then others each time.
            None => (0..10).chain(std::iter::repeat_with(rand::random)).take(lives).collect(),
        };
        for seed in seeds {
            for event in live(rig, seed).await {
                *events.entry(event).or_default() += 1;
            }
        }
    }
    for event in ["renews", "renews, and the answer is lost", "enrols again", "the thief renews", "renews in vain"] {
        assert!(one.is_some() || events.contains_key(event), "never: {event}; {events:?}");
    }
}
