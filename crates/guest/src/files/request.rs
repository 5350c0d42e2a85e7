//! What a request for files says, who may ask it, and how it is refused.

use std::io;

use http::{HeaderMap, Response, StatusCode, Uri};

use super::signature::{self, Operation};
use crate::filesystem::tree::TreeError;
use crate::guest::Guest;
use crate::paths;
use crate::server::answers::{self, Body};
use crate::users::{self, Account};

/// A refusal with its status.
#[derive(Debug)]
pub struct FileError {
    pub status: StatusCode,
    pub message: String,
}

impl FileError {
    pub fn new(status: StatusCode, message: impl Into<String>) -> Self {
        Self { status, message: message.into() }
    }

    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, message)
    }

    pub fn unauthorized(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, message)
    }

    /// A failure of the file system, in the words of the operation that met it.
    pub fn io(what: &str, path: &str, error: &io::Error) -> Self {
        let status = match error.raw_os_error() {
            Some(libc::ENOSPC | libc::EDQUOT) => {
                return Self::new(StatusCode::INSUFFICIENT_STORAGE, format!("not enough disk space for '{path}'"));
            }
            Some(libc::ENOENT) => {
                return Self::new(StatusCode::NOT_FOUND, format!("path '{path}' does not exist"));
            }
            Some(libc::EISDIR) => return Self::bad_request(format!("path is a directory: {path}")),
            Some(libc::ENOTDIR | libc::ELOOP | libc::ENAMETOOLONG | libc::ENXIO | libc::ETXTBSY) => {
                StatusCode::BAD_REQUEST
            }
            Some(libc::EACCES | libc::EPERM | libc::EROFS) => StatusCode::FORBIDDEN,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, format!("{what} '{path}' failed: {error}"))
    }

    pub fn answer(&self) -> Response<Body> {
        answers::error(self.status, &self.message)
    }
}

impl From<io::Error> for FileError {
    fn from(error: io::Error) -> Self {
        let status = match error.kind() {
            io::ErrorKind::InvalidData => StatusCode::BAD_REQUEST,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self::new(status, error.to_string())
    }
}

impl From<TreeError> for FileError {
    fn from(error: TreeError) -> Self {
        match &error {
            TreeError::Io { what, path, source } => Self::io(what, path, source),
            TreeError::Missing(_) => Self::new(StatusCode::NOT_FOUND, error.to_string()),
            TreeError::Refused { .. } => Self::new(StatusCode::FORBIDDEN, error.to_string()),
            TreeError::NoSpace(path) => {
                Self::new(StatusCode::INSUFFICIENT_STORAGE, format!("not enough disk space for '{path}'"))
            }
            TreeError::Abandoned(_) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, error.to_string()),
            _ => Self::bad_request(error.to_string()),
        }
    }
}

#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    pub path: String,
    pub username: String,
    pub signature: Option<String>,
    pub expiration: Option<String>,
    /// With the user's own rights, not the guest's.
    pub as_user: bool,
}

impl Query {
    pub fn parse(uri: &Uri) -> Self {
        let mut query = Self::default();
        for (name, value) in form_urlencoded::parse(uri.query().unwrap_or("").as_bytes()) {
            match &*name {
                "path" => query.path = value.into_owned(),
                "username" => query.username = value.into_owned(),
                "signature" => query.signature = Some(value.into_owned()),
                "rights" => query.as_user = value == "user",
                "signature_expiration" => query.expiration = Some(value.into_owned()),
                _ => {}
            }
        }
        query
    }
}

/// Checks that the request may do `operation`, and finds the user it acts as.
pub fn admit(
    guest: &Guest,
    trusted: bool,
    headers: &HeaderMap,
    query: &Query,
    operation: Operation,
) -> Result<Account, FileError> {
    if !trusted {
        let token = guest.settings().access_token().map(ToOwned::to_owned);
        if let Some(token) = token {
            signature::check(&token, headers, query, operation)?;
        }
    }
    account(guest, &query.username)
}

pub fn account(guest: &Guest, username: &str) -> Result<Account, FileError> {
    let name = if username.is_empty() { guest.default_user() } else { username.to_owned() };
    users::by_name(&name).map_err(|error| FileError::unauthorized(format!("error looking up user '{name}': {error}")))
}

pub fn resolve(guest: &Guest, path: &str, account: &Account) -> Result<String, FileError> {
    paths::resolve(path, account, &guest.settings().default_workdir)
        .map_err(|error| FileError::bad_request(error.to_string()))
}
