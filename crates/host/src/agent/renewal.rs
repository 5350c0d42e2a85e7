//! Renewing the host's credentials: signed with its key, on disk before use, the former kept until the new have worked.
//!
//! A lost answer changes nothing: the credentials that asked are still on disk and ask again. When the current
//! credentials are rejected and the former are still there, those are tried too before the host counts as rejected.

use std::sync::Arc;

use anyhow::Context;
use atoll_model::api::hosts::{HostCredentials, RefreshHostRequest};
use bytes::Bytes;
use chrono::Utc;

use super::control::{ControlApi, RefreshAnswer};
use super::credentials::{CredentialStore, Identity, Stored};
use super::heartbeat::decision::Observation;
use super::tombstone;
use super::trust::{Trust, certificates};
use crate::failpoint;

/// Renews credentials.
pub struct Renewal {
    pub control: Arc<dyn ControlApi>,
    pub store: Arc<CredentialStore>,
    /// Told when there are new credentials, so that the listener shows the new certificate.
    pub renewed: tokio::sync::watch::Sender<()>,
}

impl Renewal {
    /// Asks for new credentials, and stores them.
    pub async fn renew(&self) -> Observation {
        let Some(stored) = self.store.load() else { return Observation::RefreshFailed };
        let first = self.renew_with(&stored, &stored.current).await;
        match &stored.former {
            Some(former) if first == Observation::Rejected => {
                tracing::warn!("the current credentials were rejected before they ever worked: trying the former ones");
                self.renew_with(&stored, former).await
            }
            _ => first,
        }
    }

    async fn renew_with(&self, stored: &Stored, identity: &Identity) -> Observation {
        match self.attempt(stored, identity).await {
            Ok(observation) => observation,
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "renewing the host's credentials failed");
                Observation::RefreshFailed
            }
        }
    }

    async fn attempt(&self, stored: &Stored, identity: &Identity) -> anyhow::Result<Observation> {
        let key = identity.key()?;
        let request = RefreshHostRequest {
            refresh_token: identity.credentials.refresh_token.clone(),
            csr: key.signing_request().context("making a signing request")?,
            timestamp_ms: Utc::now().timestamp_millis(),
        };
        let body = Bytes::from(serde_json::to_vec(&request).context("writing the request")?);
        let signature = key.sign(&body).context("signing the request")?;
        let answer = self.control.refresh(body, &signature).await?;
        failpoint!("agent.refresh.before_save", Ok(Observation::RefreshFailed));
        match answer {
            RefreshAnswer::Renewed(credentials) => {
                check(&credentials, identity)?;
                let current = Identity::new(*credentials, &key, Utc::now().timestamp_millis());
                // The former stays whatever worked last: an unconfirmed one that asks again is not it.
                let former = stored.former.clone().unwrap_or_else(|| stored.current.clone());
                self.control.trust(&Trust::in_ca(&current.credentials.ca)?)?;
                self.store.save(Stored {
                    current,
                    former: Some(former),
                    registered_with: stored.registered_with.clone(),
                })?;
                failpoint!("agent.refresh.after_save", Ok(Observation::RefreshFailed));
                self.renewed.send_replace(());
                tracing::info!("the host's credentials were renewed");
                Ok(Observation::Renewed)
            }
            RefreshAnswer::Rejected => Ok(Observation::Rejected),
            RefreshAnswer::Gone(proof) => {
                let trusted = certificates(&identity.credentials.ca)?;
                tombstone::verify(&proof, identity.host_id(), &trusted)?;
                Ok(Observation::Deleted)
            }
        }
    }
}

/// New credentials are for this host, and of a CA of which at least one certificate is known: so a CA can be replaced
/// step by step, but not by whoever sits in between.
fn check(new: &HostCredentials, known: &Identity) -> anyhow::Result<()> {
    anyhow::ensure!(
        new.host_id == *known.host_id(),
        "control sent credentials of {} to {}",
        new.host_id,
        known.host_id()
    );
    let trusted = certificates(&known.credentials.ca)?;
    let offered = certificates(&new.ca)?;
    anyhow::ensure!(offered.iter().any(|ca| trusted.contains(ca)), "control sent a CA that this host does not know");
    Ok(())
}
