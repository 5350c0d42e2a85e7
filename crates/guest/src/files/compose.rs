//! `POST /files/compose`: joins files into one, which appears whole or not at all, and removes them.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, fchown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use serde::Deserialize;

use super::FileError;
use super::metadata::Notes;
use super::request;
use super::write::Stored;
use crate::filesystem::tree::ensure_directory;
use crate::guest::Guest;
use crate::server::answers::{self, Body};
use crate::users::Account;

const MAX_BODY_BYTES: usize = 4 * 1024 * 1024;

#[derive(Deserialize)]
struct Wish {
    #[serde(default)]
    source_paths: Vec<String>,
    #[serde(default)]
    destination: String,
    #[serde(default)]
    username: Option<String>,
}

pub async fn answer(guest: &Arc<Guest>, request: Request<Incoming>) -> Response<Body> {
    match compose(guest, request.into_body()).await {
        Ok(path) => answers::json(&Stored::file(&path, Notes::new())),
        Err(error) => error.answer(),
    }
}

async fn compose(guest: &Arc<Guest>, body: Incoming) -> Result<String, FileError> {
    let body = Limited::new(body, MAX_BODY_BYTES)
        .collect()
        .await
        .map_err(|error| FileError::bad_request(format!("the body can't be read: {error}")))?;
    let wish: Wish = serde_json::from_slice(&body.to_bytes())
        .map_err(|error| FileError::bad_request(format!("the body isn't valid: {error}")))?;
    if wish.source_paths.is_empty() {
        return Err(FileError::bad_request("source_paths is empty"));
    }
    if wish.destination.is_empty() {
        return Err(FileError::bad_request("destination is required"));
    }
    let account = request::account(guest, wish.username.as_deref().unwrap_or(""))?;
    let destination = request::resolve(guest, &wish.destination, &account)?;
    let sources =
        wish.source_paths.iter().map(|path| request::resolve(guest, path, &account)).collect::<Result<Vec<_>, _>>()?;
    if sources.contains(&destination) {
        return Err(FileError::bad_request(format!("'{destination}' can't be both source and destination")));
    }
    crate::blocking(move || join(&sources, &destination, &account).map(|()| destination)).await
}

fn join(sources: &[String], destination: &str, account: &Account) -> Result<(), FileError> {
    for source in sources {
        let meta = fs::metadata(source).map_err(|error| FileError::io("looking at", source, &error))?;
        if !meta.is_file() {
            return Err(FileError::bad_request(format!("path '{source}' is not a regular file")));
        }
    }
    if fs::metadata(destination).is_ok_and(|meta| meta.is_dir()) {
        return Err(FileError::bad_request(format!("path is a directory: {destination}")));
    }
    let parent = Path::new(destination).parent().unwrap_or(Path::new("/"));
    ensure_directory(&parent.to_string_lossy(), account)?;

    let draft = Draft::create(parent).map_err(|error| FileError::io("making a file beside", destination, &error))?;
    fchown(&draft.file, Some(account.uid), Some(account.gid))
        .map_err(|error| FileError::io("changing the owner of", destination, &error))?;
    for source in sources {
        // Copied inside the kernel, or shared, where the file system can.
        File::open(source)
            .and_then(|mut file| io::copy(&mut file, &mut &draft.file))
            .map_err(|error| FileError::io("copying", source, &error))?;
    }
    draft.publish(Path::new(destination)).map_err(|error| FileError::io("putting in place", destination, &error))?;
    for source in sources {
        // The same source may have been given twice.
        match fs::remove_file(source) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(FileError::new(
                    StatusCode::INTERNAL_SERVER_ERROR,
                    format!("'{destination}' is complete, but source '{source}' can't be removed: {error}"),
                ));
            }
            _ => {}
        }
    }
    Ok(())
}

/// A file under a passing name, which goes again unless it is published.
struct Draft {
    file: File,
    path: PathBuf,
}

impl Draft {
    fn create(folder: &Path) -> io::Result<Self> {
        static COUNTER: AtomicU64 = AtomicU64::new(0);
        loop {
            let number = COUNTER.fetch_add(1, Ordering::Relaxed);
            let path = folder.join(format!(".compose-{}-{number}", std::process::id()));
            match File::options().write(true).create_new(true).mode(0o666).open(&path) {
                Ok(file) => return Ok(Self { file, path }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn publish(mut self, destination: &Path) -> io::Result<()> {
        fs::rename(&self.path, destination)?;
        self.path = PathBuf::new();
        Ok(())
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if !self.path.as_os_str().is_empty() {
            // If it can't be removed now it couldn't later.
            let _ = fs::remove_file(&self.path);
        }
    }
}
