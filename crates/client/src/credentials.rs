//! Which server, and who asks: from the environment, or from the `credentials.json` of a local Atoll.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

use secrecy::SecretString;
use serde::Deserialize;

/// The file that `atoll up` and `atoll login` write.
const FILE_NAME: &str = "credentials.json";

/// A server and what proves who asks.
#[derive(Clone)]
pub struct Credentials {
    pub url: String,
    pub api_key: Option<SecretString>,
    /// Of a person who let this program in with `atoll login`; used where there is no key.
    pub token: Option<SecretString>,
    /// Set where `atoll up` made the first admin: lets a person at the machine do what needs a signed-in user.
    pub admin: Option<(String, SecretString)>,
    /// Where they were found, for messages.
    pub source: String,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("url", &self.url).field("source", &self.source).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("no Atoll to talk to: neither ATOLL_URL and ATOLL_API_KEY are set, nor is there a credentials.json in {}",
        .searched.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(", "))]
    NotFound { searched: Vec<PathBuf> },
    #[error("ATOLL_API_KEY is set, but ATOLL_URL is not: which server is it for?")]
    KeyWithoutUrl,
    #[error("reading {}: {source}", .path.display())]
    Unreadable { path: PathBuf, source: io::Error },
    #[error("{} is not a credentials file: {cause}", .path.display())]
    Malformed { path: PathBuf, cause: String },
}

impl From<CredentialsError> for crate::Error {
    fn from(error: CredentialsError) -> Self {
        Self::Io { what: "finding credentials".to_owned(), source: io::Error::other(error) }
    }
}

#[derive(Deserialize)]
struct File {
    url: String,
    #[serde(default)]
    api_key: Option<String>,
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    admin_email: Option<String>,
    #[serde(default)]
    admin_password: Option<String>,
}

impl Credentials {
    /// `ATOLL_URL` with `ATOLL_API_KEY`; else the first `credentials.json` of: `$ATOLL_DATA_DIR`,
    /// `~/.config/atoll`, `/var/lib/atoll`. `ATOLL_URL` alone picks the key of a file that is for that server.
    pub fn find() -> Result<Self, CredentialsError> {
        let variable = |name| std::env::var(name).ok().filter(|value: &String| !value.is_empty());
        Self::find_with(variable("ATOLL_URL"), variable("ATOLL_API_KEY"), &search_path())
    }

    /// The same for a server that is named otherwise than by `ATOLL_URL`.
    pub fn find_for(url: &str) -> Result<Self, CredentialsError> {
        let key = std::env::var("ATOLL_API_KEY").ok().filter(|key| !key.is_empty());
        Self::find_with(Some(url.to_owned()), key, &search_path())
    }

    /// The rule of [`Credentials::find`], over given values.
    pub fn find_with(url: Option<String>, key: Option<String>, folders: &[PathBuf]) -> Result<Self, CredentialsError> {
        if let (Some(url), Some(key)) = (&url, &key) {
            return Ok(Self {
                url: url.clone(),
                api_key: Some(key.clone().into()),
                token: None,
                admin: None,
                source: "ATOLL_URL and ATOLL_API_KEY".to_owned(),
            });
        }
        let mut unreadable = None;
        for folder in folders {
            let path = folder.join(FILE_NAME);
            match Self::read(&path) {
                Ok(found) if url.as_ref().is_none_or(|url| same_server(url, &found.url)) => {
                    return Ok(match key {
                        Some(key) => Self { api_key: Some(key.into()), token: None, admin: None, ..found },
                        None => found,
                    });
                }
                Ok(_) => {}
                Err(CredentialsError::Unreadable { source, .. }) if source.kind() == io::ErrorKind::NotFound => {}
                Err(error) => unreadable = unreadable.or(Some(error)),
            }
        }
        match (url, key) {
            (Some(url), _) => {
                Ok(Self { url, api_key: None, token: None, admin: None, source: "ATOLL_URL, without a key".to_owned() })
            }
            (None, Some(_)) if unreadable.is_none() => Err(CredentialsError::KeyWithoutUrl),
            _ => Err(unreadable.unwrap_or(CredentialsError::NotFound { searched: folders.to_vec() })),
        }
    }

    /// Reads one file.
    pub fn read(path: &Path) -> Result<Self, CredentialsError> {
        let bytes =
            std::fs::read(path).map_err(|source| CredentialsError::Unreadable { path: path.to_owned(), source })?;
        let file: File = serde_json::from_slice(&bytes).map_err(|error| CredentialsError::Malformed {
            path: path.to_owned(),
            // Says the place, never the content.
            cause: format!("at line {} column {}", error.line(), error.column()),
        })?;
        Ok(Self {
            url: file.url,
            api_key: file.api_key.filter(|key| !key.is_empty()).map(Into::into),
            token: file.token.filter(|token| !token.is_empty()).map(Into::into),
            admin: file.admin_email.zip(file.admin_password.map(Into::into)),
            source: path.display().to_string(),
        })
    }
}

fn same_server(left: &str, right: &str) -> bool {
    match (crate::Endpoint::parse(left), crate::Endpoint::parse(right)) {
        (Ok(left), Ok(right)) => left == right,
        _ => false,
    }
}

/// The folders in which a `credentials.json` is looked for, in order.
fn search_path() -> Vec<PathBuf> {
    let variable = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let config = variable("XDG_CONFIG_HOME").or_else(|| variable("HOME").map(|home| home.join(".config")));
    let mut folders = Vec::new();
    folders.extend(variable("ATOLL_DATA_DIR"));
    folders.extend(config.map(|folder| folder.join("atoll")));
    folders.push(PathBuf::from("/var/lib/atoll"));
    folders
}

#[cfg(test)]
mod tests {
    use super::*;
    use secrecy::ExposeSecret;

    fn folder(text: &str) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE_NAME), text).unwrap();
        folder
    }

    fn key(credentials: &Credentials) -> Option<&str> {
        credentials.api_key.as_ref().map(ExposeSecret::expose_secret)
    }

    #[test]
    fn the_environment_wins_over_files() {
        let local = folder(r#"{"url":"http://127.0.0.1:1","api_key":"atl_file"}"#);
        let found =
            Credentials::find_with(Some("http://other".into()), Some("atl_env".into()), &[local.path().to_owned()]);
        assert_eq!(key(&found.unwrap()), Some("atl_env"));
    }

    #[test]
    fn the_first_file_is_taken_and_a_key_never_goes_to_another_server() {
        let first = folder(r#"{"url":"http://127.0.0.1:1","api_key":"atl_1","admin_email":"a","admin_password":"b"}"#);
        let second = folder(r#"{"url":"http://127.0.0.1:2","api_key":"atl_2"}"#);
        let folders = [first.path().to_owned(), second.path().to_owned()];
        assert_eq!(key(&Credentials::find_with(None, None, &folders).unwrap()), Some("atl_1"));
        let chosen = Credentials::find_with(Some("127.0.0.1:2/".into()), None, &folders).unwrap();
        assert_eq!(key(&chosen), Some("atl_2"));
        let stranger = Credentials::find_with(Some("http://stranger".into()), None, &folders).unwrap();
        assert_eq!(key(&stranger), None);
    }

    #[test]
    fn nothing_found_says_where_was_looked() {
        let error = Credentials::find_with(None, None, &[PathBuf::from("/nonexistent")]).unwrap_err();
        assert!(error.to_string().contains("/nonexistent"), "{error}");
    }

    #[test]
    fn a_broken_file_is_named_without_its_content() {
        let broken = folder(r#"{"url":"x","api_key":12345678}"#);
        let error = Credentials::find_with(None, None, &[broken.path().to_owned()]).unwrap_err().to_string();
        assert!(error.contains(FILE_NAME) && !error.contains("12345678"), "{error}");
    }
}
