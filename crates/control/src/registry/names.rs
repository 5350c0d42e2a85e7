//! What the paths of the distribution protocol name: `{repository}/blobs/…`, `/manifests/…`, `/tags/list`. They come from
//! anybody, so each part is what it must be or the path names nothing.

use crate::oci::is_digest;

const MAX_REPOSITORY: usize = 255;
const MAX_TAG: usize = 128;

/// What follows `/v2/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named {
    pub repository: String,
    pub what: What,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// Where uploads are begun.
    Uploads,
    Upload(String),
    /// By its digest.
    Blob(String),
    /// By a tag or a digest.
    Manifest(String),
    Tags,
}

impl Named {
    /// Nothing for a path that names nothing here.
    #[must_use]
    pub fn parse(path: &str) -> Option<Self> {
        let (before, last) = path.rsplit_once('/')?;
        let (repository, what) = if let Some(repository) = before.strip_suffix("/blobs/uploads") {
            let upload = if last.is_empty() { What::Uploads } else { What::Upload(last.to_owned()) };
            (repository, upload)
        } else if let Some(repository) = before.strip_suffix("/blobs") {
            // Some clients leave the last slash out.
            let what = if last == "uploads" { What::Uploads } else { What::Blob(last.to_owned()) };
            (repository, what)
        } else if let Some(repository) = before.strip_suffix("/manifests") {
            (repository, What::Manifest(last.to_owned()))
        } else if last == "list" {
            (before.strip_suffix("/tags")?, What::Tags)
        } else {
            return None;
        };
        let valid = match &what {
            What::Uploads | What::Tags => true,
            What::Upload(id) => is_upload(id),
            What::Blob(digest) => is_digest(digest),
            What::Manifest(reference) => is_digest(reference) || is_tag(reference),
        };
        (valid && is_repository(repository)).then(|| Self { repository: repository.to_owned(), what })
    }
}

/// Of an upload: 32 hex digits.
fn is_upload(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

#[must_use]
pub fn is_tag(text: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-');
    (1..=MAX_TAG).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with(['.', '-'])
}

/// Parts of small letters and digits, with one dot, one or two underscores or any number of hyphens between them.
#[must_use]
pub fn is_repository(text: &str) -> bool {
    text.len() <= MAX_REPOSITORY && text.split('/').all(is_part)
}

fn is_part(part: &str) -> bool {
    let is_plain = |letter: char| letter.is_ascii_lowercase() || letter.is_ascii_digit();
    let mut separators = part.split(is_plain).filter(|between| !between.is_empty());
    part.starts_with(is_plain)
        && part.ends_with(is_plain)
        && separators.all(|it| matches!(it, "." | "_" | "__") || it.bytes().all(|byte| byte == b'-'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn parsed(path: &str) -> Option<(String, What)> {
        Named::parse(path).map(|named| (named.repository, named.what))
    }

    #[test]
    fn paths_are_read_from_their_end() {
        let digest = format!("sha256:{}", "0a".repeat(32));
        let upload = "0f".repeat(16);
        for (path, repository, what) in [
            ("app/blobs/uploads/", "app", What::Uploads),
            ("app/blobs/uploads", "app", What::Uploads),
            (&format!("a/b/blobs/uploads/{upload}"), "a/b", What::Upload(upload.clone())),
            (&format!("e2b/custom-envs/tpl-x/blobs/{digest}"), "e2b/custom-envs/tpl-x", What::Blob(digest.clone())),
            (&format!("app/manifests/{digest}"), "app", What::Manifest(digest.clone())),
            ("a.b/c__d/e--f/manifests/V1.0", "a.b/c__d/e--f", What::Manifest("V1.0".to_owned())),
            ("manifests/blobs/manifests/latest", "manifests/blobs", What::Manifest("latest".to_owned())),
            ("app/tags/list", "app", What::Tags),
        ] {
            assert_eq!(parsed(path), Some((repository.to_owned(), what)), "{path}");
        }
        for path in [
            "",
            "app",
            "_catalog",
            "blobs/uploads/",
            "/blobs/uploads/",
            "App/manifests/x",
            "a/../b/manifests/x",
            "a//b/manifests/x",
            "a_/manifests/x",
            "a___b/manifests/x",
            "a..b/manifests/x",
            "app/manifests/",
            "app/manifests/.x",
            "app/manifests/a b",
            "app/blobs/sha256:0",
            "app/blobs/uploads/x",
            "app/blobs/sha512:00",
            "app/tags/list/",
            "app/x",
        ] {
            assert_eq!(parsed(path), None, "{path}");
        }
    }

    proptest! {
        #[test]
        fn foreign_bytes_make_it_panic_never_and_what_it_names_is_plain(
            bytes in proptest::collection::vec(any::<u8>(), 0..80),
            path in "([a-z0-9._-]{0,4}/){0,4}(blobs|manifests|tags|uploads)?/?(uploads|list|[a-zA-Z0-9:._-]{0,8})/?.{0,3}",
        ) {
            for text in [String::from_utf8_lossy(&bytes).into_owned(), path] {
                let Some(named) = Named::parse(&text) else { continue };
                let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-:".contains(&byte);
                prop_assert!(named.repository.bytes().all(plain) && !named.repository.contains(".."));
                prop_assert!(text.starts_with(&named.repository));
            }
        }

        #[test]
        fn what_is_a_repository_and_a_tag_is_found_again(
            repository in "[a-z0-9]{1,5}((\\.|_|__|-{1,3})[a-z0-9]{1,4}){0,2}(/[a-z0-9]{1,4}){0,3}",
            tag in "[a-zA-Z0-9_][a-zA-Z0-9._-]{0,20}",
        ) {
            let named = Named::parse(&format!("{repository}/manifests/{tag}"));
            prop_assert_eq!(named, Some(Named { repository, what: What::Manifest(tag) }));
        }
    }
}
