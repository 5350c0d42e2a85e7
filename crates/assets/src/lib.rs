//! What the one binary carries inside: the guest agent, the dashboard and the recipes of the templates that ship.
//!
//! All of it is made by the build script (see `build/main.rs`). This crate only looks things up; how they are
//! served or placed is decided by control's http floor and by the host's driver.
#![forbid(unsafe_code)]

/// The guest agent: a static executable that becomes PID 1 of every sandbox.
pub static GUEST: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/atoll-guest"));

/// A file of the dashboard.
#[derive(Debug)]
pub struct DashboardFile {
    /// Relative, without a leading slash: `index.html`, `_app/immutable/entry/start.js`.
    pub path: &'static str,
    pub bytes: &'static [u8],
    /// The same bytes gzipped, where that pays.
    pub gzip: Option<&'static [u8]>,
    /// The `Content-Type`.
    pub mime: &'static str,
    /// Its name changes with its content: may be cached for ever.
    pub immutable: bool,
    /// Hex of a hash over the bytes, for an `ETag`.
    pub hash: &'static str,
}

/// All files of the dashboard, sorted by path.
pub static DASHBOARD: &[DashboardFile] = include!(concat!(env!("OUT_DIR"), "/dashboard.rs"));

/// The recipe of the `base` template: relative paths and contents of the files below `templates/base`.
pub static BASE_RECIPE: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/base_recipe.rs"));

/// The recipe of the `code-interpreter` template, likewise.
pub static CODE_INTERPRETER_RECIPE: &[(&str, &str)] = include!(concat!(env!("OUT_DIR"), "/code_interpreter_recipe.rs"));

/// The dashboard's file at `path` (a leading slash is allowed).
#[must_use]
pub fn dashboard_file(path: &str) -> Option<&'static DashboardFile> {
    let path = path.strip_prefix('/').unwrap_or(path);
    DASHBOARD.binary_search_by(|file| file.path.cmp(path)).ok().map(|index| &DASHBOARD[index])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_dashboard_is_found_by_its_path() {
        assert!(!DASHBOARD.is_empty());
        for file in DASHBOARD {
            assert_eq!(dashboard_file(file.path).map(|found| found.hash), Some(file.hash));
        }
        assert!(dashboard_file("/index.html").is_some_and(|page| page.mime.starts_with("text/html")));
        assert!(dashboard_file("no/such/file").is_none());
    }

    #[test]
    fn the_guest_agent_is_an_executable() {
        assert!(GUEST.starts_with(b"\x7fELF"));
    }
}
