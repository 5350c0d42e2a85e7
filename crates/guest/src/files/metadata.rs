//! Callers' notes on files: request headers `X-Metadata-<key>` kept as extended attributes `user.e2b.<key>`.
//!
//! An upload replaces the whole set. Files without notes are never touched for them, so that watchers see no change of
//! attributes that nobody made.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use http::HeaderMap;
use rustix::fs::{XattrFlags, getxattr, listxattr, removexattr, setxattr};
use rustix::io::Errno;

use super::FileError;

const HEADER_PREFIX: &str = "x-metadata-";
const ATTRIBUTE_PREFIX: &str = "user.e2b.";
const MAX_KEY_BYTES: usize = 246;
const MAX_TOTAL_BYTES: usize = 4096;
/// The kernel's limit on the names of a file's attributes together.
const MAX_LIST_BYTES: usize = 64 * 1024;

pub type Notes = BTreeMap<String, String>;

/// The notes that a request's headers carry.
pub fn from_headers(headers: &HeaderMap) -> Result<Notes, FileError> {
    let invalid = |problem: String| FileError::bad_request(format!("invalid metadata: {problem}"));
    let mut notes = Notes::new();
    let mut total = 0;
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(HEADER_PREFIX) else { continue };
        if key.is_empty() || key.len() > MAX_KEY_BYTES {
            return Err(invalid(format!("a key must have 1 to {MAX_KEY_BYTES} bytes")));
        }
        let value = value.as_bytes();
        if !value.iter().all(|byte| (0x20..=0x7e).contains(byte)) {
            return Err(invalid(format!("the value of '{key}' must be printable ASCII")));
        }
        total += ATTRIBUTE_PREFIX.len() + key.len() + value.len();
        if total > MAX_TOTAL_BYTES {
            return Err(invalid(format!("keys and values are longer than {MAX_TOTAL_BYTES} bytes together")));
        }
        notes.insert(key.to_owned(), String::from_utf8_lossy(value).into_owned());
    }
    Ok(notes)
}

/// The notes on a file; none where the file system has no extended attributes.
pub fn read(path: &Path) -> io::Result<Vec<(String, String)>> {
    let mut notes = Vec::new();
    for name in names(path)? {
        let mut value = [0_u8; MAX_TOTAL_BYTES];
        match getxattr(path, format!("{ATTRIBUTE_PREFIX}{name}"), &mut value) {
            Ok(length) => notes.push((name, String::from_utf8_lossy(&value[..length]).into_owned())),
            // Removed since, or set by somebody else to more than a note can be.
            Err(Errno::NODATA | Errno::RANGE) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(notes)
}

/// Makes `notes` the whole set of notes on a file.
pub fn replace(path: &Path, notes: &Notes) -> io::Result<()> {
    for stale in names(path)?.into_iter().filter(|name| !notes.contains_key(name)) {
        match removexattr(path, format!("{ATTRIBUTE_PREFIX}{stale}")) {
            Ok(()) | Err(Errno::NODATA) => {}
            Err(error) => return Err(error.into()),
        }
    }
    for (key, value) in notes {
        setxattr(path, format!("{ATTRIBUTE_PREFIX}{key}"), value.as_bytes(), XattrFlags::empty())?;
    }
    Ok(())
}

/// The keys of the notes on a file.
fn names(path: &Path) -> io::Result<Vec<String>> {
    // Most files have none, or few; the great buffer is for the others.
    let mut buffer = vec![0_u8; 256];
    let length = match listxattr(path, buffer.as_mut_slice()) {
        Err(Errno::RANGE) => {
            buffer.resize(MAX_LIST_BYTES, 0);
            listxattr(path, buffer.as_mut_slice())?
        }
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        other => other?,
    };
    let names = buffer[..length].split(|byte| *byte == 0);
    Ok(names
        .filter_map(|name| std::str::from_utf8(name).ok()?.strip_prefix(ATTRIBUTE_PREFIX))
        .map(ToOwned::to_owned)
        .collect())
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};

    use super::*;

    fn headers(pairs: &[(&str, &[u8])]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| {
                let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
                (name, HeaderValue::from_bytes(value).expect("a value"))
            })
            .collect()
    }

    #[test]
    fn headers_become_notes_and_bad_ones_are_refused() {
        let notes = from_headers(&headers(&[("X-Metadata-Owner", b"me"), ("other", b"x")])).expect("valid");
        assert_eq!(notes, Notes::from([("owner".into(), "me".into())]));
        for bad in [
            headers(&[("x-metadata-", b"v")]),
            headers(&[("x-metadata-a", "ž".as_bytes())]),
            headers(&[("x-metadata-a", &[b'x'; 4090])]),
            headers(&[(&format!("x-metadata-{}", "k".repeat(247)), b"v")]),
        ] {
            let error = from_headers(&bad).expect_err("refused");
            assert!(error.message.starts_with("invalid metadata: "), "{}", error.message);
        }
    }

    #[test]
    fn the_whole_set_is_replaced_and_read_back() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let file = folder.path().join("file");
        std::fs::write(&file, "x").expect("written");
        let set = |pairs: &[(&str, &str)]| {
            pairs.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect::<Notes>()
        };
        replace(&file, &set(&[("a", "1"), ("b", "2")])).expect("set");
        setxattr(&file, "user.other", b"kept", XattrFlags::empty()).expect("set");
        replace(&file, &set(&[("b", "3")])).expect("set");
        assert_eq!(read(&file).expect("read"), [("b".to_owned(), "3".to_owned())]);
        replace(&file, &Notes::new()).expect("set");
        assert_eq!(read(&file).expect("read"), []);
    }
}
