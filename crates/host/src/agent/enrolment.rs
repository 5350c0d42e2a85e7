//! Enrolment: from a registration token to credentials.
//!
//! The key pair is made here and is on disk before control is asked, so that a retry after a crash or a lost answer
//! comes with the same key. A host that already has credentials enrols again only with a token it has not used before;
//! if that token is refused, the credentials that it has go on counting.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use atoll_model::api::hosts::{HostCredentials, HostSpecs, RegisterHostRequest};
use chrono::Utc;
use tokio_util::sync::CancellationToken;

use super::control::{ControlApi, HttpControl, RegisterAnswer};
use super::credentials::{CredentialStore, Identity, Stored};
use super::endpoint::Endpoint;
use super::registration_token::RegistrationToken;
use super::trust::{Trust, certificates, fingerprint};
use crate::failpoint;

/// What a host says of itself when it enrols.
#[derive(Clone)]
pub struct Enrolment<'a> {
    pub endpoint: &'a Endpoint,
    pub token: &'a RegistrationToken,
    pub address: String,
    pub specs: HostSpecs,
    /// Sandboxes that live on this host: they may only go on under the id that they have.
    pub has_sandboxes: bool,
}

/// Whether a token is there that asks for an enrolment.
#[must_use]
pub fn is_wanted(store: &CredentialStore, token: &RegistrationToken) -> bool {
    store.load().is_none_or(|stored| stored.registered_with != token.digest())
}

/// Enrols; tries again as long as control can't be reached. `Ok(false)` when the agent shuts down meanwhile.
///
/// # Errors
/// When the token is refused and the host has no credentials, or what control answers can't be right.
pub async fn enrol(
    store: &CredentialStore,
    enrolment: Enrolment<'_>,
    shutdown: &CancellationToken,
) -> anyhow::Result<bool> {
    let trust = Trust::Fingerprint(enrolment.token.ca());
    let control = Arc::new(HttpControl::new(enrolment.endpoint.clone(), &trust, &enrolment.specs.agent_version)?);
    let key = store.enrolment_key()?;
    let request = RegisterHostRequest {
        token: enrolment.token.expose().to_owned(),
        address: enrolment.address.clone(),
        specs: enrolment.specs.clone(),
        csr: key.signing_request().context("making a signing request")?,
    };
    failpoint!("agent.enrol.before_request", bail!("failpoint"));
    let mut wait = Duration::from_millis(250);
    let credentials = loop {
        let answer = tokio::select! {
            answer = control.register(&request) => answer,
            () = shutdown.cancelled() => return Ok(false),
        };
        match answer {
            Ok(RegisterAnswer::Enrolled(credentials)) => break credentials,
            Ok(RegisterAnswer::Refused(message) | RegisterAnswer::Invalid(message)) => {
                if store.load().is_some() {
                    tracing::warn!(message, "control refused the registration token; the host keeps its credentials");
                    return Ok(true);
                }
                bail!(
                    "control refused to enrol this host: {message}. Make a new token (`atoll hosts token HOST`, or \
                     POST /v1/hosts/{{id}}/token) and run: atoll host --register TOKEN"
                );
            }
            Err(error) => {
                tracing::warn!(%error, retry_in = ?wait, "control can't be reached to enrol this host");
                tokio::select! {
                    () = tokio::time::sleep(wait) => {}
                    () = shutdown.cancelled() => return Ok(false),
                }
                wait = (wait * 2).min(Duration::from_secs(15));
            }
        }
    };
    failpoint!("agent.enrol.before_save", bail!("failpoint"));
    check(&credentials, enrolment.token, store, enrolment.has_sandboxes)?;
    let current = Identity::new(*credentials, &key, Utc::now().timestamp_millis());
    tracing::info!(host = %current.host_id(), name = current.credentials.name, "this host is enrolled");
    store.save(Stored { current, former: None, registered_with: enrolment.token.digest() })?;
    failpoint!("agent.enrol.after_save", bail!("failpoint"));
    store.enrolment_done();
    Ok(true)
}

fn check(
    credentials: &HostCredentials,
    token: &RegistrationToken,
    store: &CredentialStore,
    has_sandboxes: bool,
) -> anyhow::Result<()> {
    let ca = certificates(&credentials.ca).context("control sent no CA")?;
    ensure!(
        ca.iter().any(|certificate| fingerprint(certificate) == token.ca()),
        "control sent a CA that is not the registration token's: somebody may stand in between"
    );
    if let Some(former) = store.host_id().filter(|id| has_sandboxes && *id != credentials.host_id) {
        bail!(
            "this data directory holds sandboxes of {former}, but the registration token is {}'s: use a token of \
             {former}, or another data directory",
            credentials.host_id
        );
    }
    Ok(())
}
