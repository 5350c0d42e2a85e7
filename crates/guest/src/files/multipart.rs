//! A form with files in it, taken apart as it arrives.

use std::collections::HashSet;
use std::io;
use std::sync::Arc;

use bytes::Bytes;
use futures::Stream;

use super::FileError;
use super::metadata::Notes;
use super::request;
use super::sink::{self, Target};
use crate::guest::Guest;
use crate::users::Account;

/// Files in one form.
const MAX_FILES: usize = 10_000;

/// The only parts that count.
const FIELD: &str = "file";

/// The boundary in a `multipart/...` content type.
pub fn boundary(content_type: &str) -> Option<String> {
    let parameters = content_type.split_once(';')?.1;
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        // RFC 2046: 1 to 70 characters.
        (name.trim().eq_ignore_ascii_case("boundary") && (1..=70).contains(&value.len())).then(|| value.to_owned())
    })
}

impl From<multer::Error> for FileError {
    fn from(error: multer::Error) -> Self {
        Self::bad_request(format!("the multipart form can't be read: {error}"))
    }
}

/// Stores every part named `file` and returns the paths in order. `path` is where to, unless empty: then it's the part's
/// own file name, directories included.
pub async fn receive(
    guest: &Arc<Guest>,
    account: &Account,
    path: &str,
    notes: &Notes,
    boundary: String,
    chunks: impl Stream<Item = io::Result<Bytes>> + Send + 'static,
) -> Result<Vec<String>, FileError> {
    let mut form = multer::Multipart::new(chunks, boundary);
    let mut stored = Vec::new();
    let mut seen = HashSet::new();
    while let Some(field) = form.next_field().await? {
        if field.name() != Some(FIELD) {
            continue;
        }
        let wanted = match (path, field.file_name()) {
            ("", Some(name)) if !name.is_empty() => name,
            ("", _) => return Err(FileError::bad_request("a part has no file name, and the request has no path")),
            (path, _) => path,
        };
        let target = request::resolve(guest, wanted, account)?;
        if stored.len() >= MAX_FILES {
            return Err(FileError::bad_request(format!("the form has more than {MAX_FILES} files")));
        }
        if !seen.insert(target.clone()) {
            return Err(FileError::bad_request(format!("the form has more than one file for path '{target}'")));
        }
        let sink = Target { path: target.clone(), account: account.clone(), as_user: false };
        sink::store(guest, sink, notes, field).await?;
        stored.push(target);
    }
    if stored.is_empty() {
        return Err(FileError::bad_request("the form has no part named 'file'"));
    }
    Ok(stored)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_boundary_is_found() {
        assert_eq!(boundary("multipart/form-data; boundary=abc").as_deref(), Some("abc"));
        assert_eq!(boundary("multipart/mixed; charset=x; Boundary=\"a b\"").as_deref(), Some("a b"));
        assert_eq!(boundary("multipart/form-data"), None);
        assert_eq!(boundary("multipart/form-data; boundary="), None);
        assert_eq!(boundary(&format!("multipart/form-data; boundary={}", "x".repeat(71))), None);
    }

    proptest! {
        #[test]
        fn any_content_type_is_looked_at_without_a_panic(text in ".{0,100}", name in "[A-Za-z0-9]{1,70}") {
            let _ = boundary(&text);
            prop_assert_eq!(boundary(&format!("multipart/form-data; boundary={name}")), Some(name));
        }
    }
}
