//! What `atoll up` does beyond starting both halves: the first admin's credentials on disk, and the enrolment of this
//! machine's agent through the same requests that any other host goes through.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use atoll_client::model::HostId;
use atoll_client::model::api::hosts::CreateHostRequest;
use atoll_client::{Auth, Client, Credentials, Endpoint};
use atoll_control::Control;
use atoll_control::templates::{Recipe, ensure_base};
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Value, json};

use super::private_file;
use crate::output::with_hint;

pub fn credentials_path(data_dir: &Path) -> PathBuf {
    data_dir.join("credentials.json")
}

/// What the first start made.
pub struct FirstAdmin {
    pub email: String,
    pub password: SecretString,
    pub api_key: SecretString,
}

impl FirstAdmin {
    pub fn of(made: &atoll_control::FirstAdmin) -> Self {
        Self { email: made.email.clone(), password: made.password.clone(), api_key: made.api_key.clone() }
    }
}

/// Writes the credentials of a first start, or brings the address in those of an earlier one up to date.
pub fn write_credentials(
    data_dir: &Path,
    url: &str,
    first: Option<&FirstAdmin>,
) -> anyhow::Result<Option<Credentials>> {
    let path = credentials_path(data_dir);
    let what = || format!("writing {}", path.display());
    let content = match first {
        Some(admin) => json!({
            "url": url,
            "admin_email": admin.email,
            "admin_password": admin.password.expose_secret(),
            "api_key": admin.api_key.expose_secret(),
        }),
        None => {
            let Ok(bytes) = std::fs::read(&path) else { return Ok(None) };
            let mut content: Value =
                serde_json::from_slice(&bytes).with_context(|| format!("{} is damaged", path.display()))?;
            content["url"] = json!(url);
            content
        }
    };
    private_file::write(&path, serde_json::to_string_pretty(&content)?.as_bytes()).with_context(what)?;
    Ok(Some(Credentials::read(&path)?))
}

/// Makes sure that the platform's template `base` exists: its image on this machine, and its row. `say` gets a line for
/// people at each step.
pub async fn base_template(
    control: &Control,
    cache_dir: &Path,
    say: &(dyn Fn(&str) + Send + Sync),
) -> anyhow::Result<()> {
    let recipe = Recipe::new("base", atoll_assets::BASE_RECIPE.iter().copied())
        .context("reading the recipe of the base template")?;
    let base = ensure_base(cache_dir, &recipe, say).await.context("getting the base template")?;
    control.register_base(&base).await.context("registering the base template")
}

/// This machine's host, seen from outside: by the REST API, in the admin's name.
pub struct LocalHost {
    url: String,
    data_dir: PathBuf,
    admin: Option<(String, SecretString)>,
}

impl LocalHost {
    pub fn new(url: &str, data_dir: &Path, credentials: Option<&Credentials>) -> Self {
        let admin = credentials.and_then(|credentials| credentials.admin.clone());
        Self { url: url.to_owned(), data_dir: data_dir.to_owned(), admin }
    }

    /// A registration token when the agent has no credentials, or those of a host that control does not know.
    pub async fn token_if_needed(&self, name: &str) -> anyhow::Result<Option<SecretString>> {
        let stored = self.stored_id()?;
        let admin = match (self.admin_client().await, &stored) {
            (Ok(admin), _) => admin,
            // An admin who has changed the password since is no reason to stop a host that has all it needs.
            (Err(error), Some(_)) => {
                tracing::info!(%error, "the admin's credentials on disk no longer work; the host's own are used as they are");
                return Ok(None);
            }
            (Err(error), None) => {
                return Err(with_hint(
                    format!("this machine's host can't be registered: {error:#}"),
                    format!("make a token in the dashboard and start again with ATOLL_REGISTER=TOKEN ({})", self.url),
                ));
            }
        };
        if let Some(id) = stored {
            match admin.get_host(&id).await {
                Ok(_) => return Ok(None),
                Err(error) if error.is_not_found() => {
                    tracing::warn!(host = %id, "control does not know the host of this data directory; it is registered anew");
                }
                Err(error) => return Err(error).with_context(|| format!("looking at {id}")),
            }
        }
        let request = CreateHostRequest { name: Some(name.to_owned()), ..CreateHostRequest::default() };
        let made = match admin.create_host(&request).await {
            Err(error) if error.status() == Some(409) => admin.create_host(&CreateHostRequest::default()).await,
            result => result,
        };
        Ok(Some(made.context("registering this machine as a host")?.registration_token.into()))
    }

    /// A token to enrol again, when control says that the host's credentials count no longer (it refuses one for a
    /// healthy host).
    pub async fn token_if_refused(&self) -> Option<SecretString> {
        let id = self.stored_id().ok()??;
        let admin = self.admin_client().await.ok()?;
        match admin.new_host_token(&id).await {
            Ok(made) => Some(made.registration_token.into()),
            Err(error) => {
                tracing::debug!(%error, host = %id, "no new registration token");
                None
            }
        }
    }

    fn stored_id(&self) -> anyhow::Result<Option<HostId>> {
        atoll_host::enrolled_host(&self.data_dir).context("reading the host's credentials")
    }

    async fn admin_client(&self) -> anyhow::Result<Client> {
        let (email, password) = self.admin.as_ref().context("there are no credentials of an admin on disk")?;
        let client = Client::to(Endpoint::parse(&self.url)?, Auth::Nobody)?;
        client.signed_in(email, password).await.with_context(|| format!("signing in as {email}"))
    }
}

/// Waits until a create would succeed.
pub async fn wait_until_ready(client: &Client, deadline: tokio::time::Instant) -> Result<(), String> {
    loop {
        match client.ready().await {
            Ok(()) => return Ok(()),
            Err(error) if tokio::time::Instant::now() >= deadline => return Err(error.to_string()),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_start_changes_the_address_and_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let first = FirstAdmin { email: "a@b".into(), password: "secret".into(), api_key: "atl_1".into() };
        write_credentials(folder.path(), "http://127.0.0.1:1", Some(&first)).unwrap();
        let later = write_credentials(folder.path(), "http://127.0.0.1:2", None).unwrap().unwrap();
        assert_eq!(later.url, "http://127.0.0.1:2");
        assert_eq!(later.admin.unwrap().1.expose_secret(), "secret");
        assert_eq!(later.api_key.unwrap().expose_secret(), "atl_1");
    }

    #[test]
    fn without_credentials_there_is_nothing_to_bring_up_to_date() {
        let folder = tempfile::tempdir().unwrap();
        assert!(write_credentials(folder.path(), "http://x", None).unwrap().is_none());
    }
}
