//! How a path in a request becomes a path in the sandbox.
//!
//! Empty means the default working directory, `~` the user's home, a relative path starts at the home, an absolute one
//! is kept. There is nothing to confine: callers are root in the sandbox anyway. What can't be a path at all (a NUL
//! byte, somebody else's `~`) is refused.

use std::path::{Component, Path};

use crate::users::Account;

/// The kernel's limit, with room for nothing more.
const MAX_PATH_BYTES: usize = 4096;

#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    #[error("path '{0}' can't be resolved: only '~' and '~/...' are understood, not another user's home")]
    ForeignHome(String),
    #[error("the path contains a NUL byte")]
    Nul,
    #[error("the path is longer than {MAX_PATH_BYTES} bytes")]
    TooLong,
}

/// Resolves `path` for `account` to a clean absolute path (no `.`, `..`, doubled or trailing slashes).
pub fn resolve(path: &str, account: &Account, default_workdir: &str) -> Result<String, PathError> {
    if path.contains('\0') {
        return Err(PathError::Nul);
    }
    let home = account.home.as_str();
    let joined = if path.is_empty() {
        return Ok(clean(&workdir(account, default_workdir)));
    } else if path == "~" {
        home.to_owned()
    } else if let Some(rest) = path.strip_prefix("~/") {
        format!("{home}/{rest}")
    } else if path.starts_with('~') {
        return Err(PathError::ForeignHome(path.chars().take(100).collect()));
    } else if path.starts_with('/') {
        path.to_owned()
    } else {
        format!("{home}/{path}")
    };
    if joined.len() >= MAX_PATH_BYTES {
        return Err(PathError::TooLong);
    }
    Ok(clean(&joined))
}

/// The directory a program starts in when none is asked for: the default one, else the user's home.
fn workdir(account: &Account, default_workdir: &str) -> String {
    match default_workdir {
        "" => account.home.clone(),
        directory if directory.starts_with('/') => directory.to_owned(),
        relative => format!("{}/{relative}", account.home),
    }
}

/// Removes `.`, `..` and needless slashes by the text alone, as shells do for `cd`.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for component in Path::new(path).components() {
        match component {
            Component::Normal(part) => parts.extend(part.to_str()),
            Component::ParentDir => {
                parts.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    format!("/{}", parts.join("/"))
}

/// The last part of a path, as shown in listings; the root shows as itself.
pub fn base_name(path: &str) -> &str {
    match path.rsplit('/').next() {
        Some("") | None => "/",
        Some(name) => name,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account() -> Account {
        Account { name: "user".into(), uid: 1000, gid: 1000, home: "/home/user".into(), groups: vec![1000] }
    }

    #[test]
    fn paths_resolve_as_the_contract_says() {
        for (path, expected) in [
            ("", "/work"),
            ("~", "/home/user"),
            ("~/a", "/home/user/a"),
            ("a/b", "/home/user/a/b"),
            ("./a", "/home/user/a"),
            ("/etc//passwd", "/etc/passwd"),
            ("/a/../../b/", "/b"),
            ("/", "/"),
            ("a~b", "/home/user/a~b"),
        ] {
            assert_eq!(resolve(path, &account(), "/work").as_deref(), Ok(expected), "{path:?}");
        }
        assert_eq!(resolve("", &account(), "").as_deref(), Ok("/home/user"));
    }

    #[test]
    fn what_is_no_path_here_is_refused() {
        assert!(matches!(resolve("~root/x", &account(), ""), Err(PathError::ForeignHome(_))));
        assert_eq!(resolve("/a\0b", &account(), ""), Err(PathError::Nul));
        assert_eq!(resolve(&"a".repeat(5000), &account(), ""), Err(PathError::TooLong));
    }

    proptest! {
        #[test]
        fn a_resolved_path_is_absolute_clean_and_resolves_to_itself(path in "[a-z./~]{0,40}") {
            if let Ok(resolved) = resolve(&path, &account(), "/work") {
                prop_assert!(resolved.starts_with('/'));
                prop_assert!(!resolved.contains("//") && !resolved.split('/').any(|part| part == ".." || part == "."));
                prop_assert_eq!(resolve(&resolved, &account(), "/work"), Ok(resolved.clone()));
                prop_assert!(!base_name(&resolved).is_empty());
            }
        }
    }
}
