//! Builds the dashboard with npm, once per content of its sources, and embeds what comes out.
//!
//! Without npm, or without sources, the binary gets one page that says so and how to get the real thing: a build
//! never fails because Node is missing.

use std::path::{Path, PathBuf};
use std::process::Command;

use sha2::{Digest, Sha256};

use crate::{attempt, table};

const SKIP: &str = "ATOLL_SKIP_DASHBOARD";
/// Folders in `dashboard/` that are made, not written.
const MADE: [&str; 5] = ["node_modules", "build", ".svelte-kit", "screenshots", "test-results"];

/// Writes `OUT_DIR/dashboard.rs`, the table of files.
pub fn embed(workspace: &Path, out: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-env-changed={SKIP}");
    let source = workspace.join("dashboard");
    let files = match std::env::var(SKIP).as_deref() {
        Ok("1") => placeholder("This binary was built with ATOLL_SKIP_DASHBOARD=1, without its dashboard."),
        _ if !source.join("package.json").is_file() => {
            println!("cargo:rerun-if-changed={}", source.display());
            placeholder("This binary was built from sources that hold no dashboard.")
        }
        _ if !npm_works() => {
            println!("cargo:warning=npm was not found: the binary gets a page in place of the dashboard");
            placeholder("This binary was built on a machine without npm, so it has no dashboard.")
        }
        _ => build(workspace, &source)?,
    };
    table::dashboard(&files, out)
}

fn npm_works() -> bool {
    println!("cargo:rerun-if-env-changed=PATH");
    Command::new("npm").arg("--version").output().is_ok_and(|output| output.status.success())
}

fn placeholder(reason: &str) -> Vec<(String, Vec<u8>)> {
    let page = include_str!("no_dashboard.html").replace("{reason}", reason);
    // Apart: the policy that pages are served with allows nothing inline.
    let style = include_bytes!("no_dashboard.css").to_vec();
    vec![("index.html".to_owned(), page.into_bytes()), ("no_dashboard.css".to_owned(), style)]
}

fn build(workspace: &Path, source: &Path) -> Result<Vec<(String, Vec<u8>)>, String> {
    let mut hash = Sha256::new();
    let mut sources = Vec::new();
    walk(source, source, &mut sources)?;
    sources.retain(|(path, _)| !MADE.iter().any(|made| path.starts_with(&format!("{made}/"))));
    for entry in std::fs::read_dir(source).into_iter().flatten().flatten() {
        if !MADE.contains(&&*entry.file_name().to_string_lossy()) {
            println!("cargo:rerun-if-changed={}", entry.path().display());
        }
    }
    for (path, bytes) in &sources {
        hash.update(path.as_bytes());
        hash.update([0]);
        hash.update(Sha256::digest(bytes));
    }
    let stamp = hex::encode(hash.finalize());

    // Two builds with different target directories share node_modules and the result: one at a time.
    let lock_path = workspace.join("target/dashboard.lock");
    let _ = std::fs::create_dir_all(workspace.join("target"));
    let lock = attempt("creating", &lock_path, std::fs::File::create(&lock_path))?;
    attempt("locking", &lock_path, lock.lock())?;

    let result = source.join("build");
    let stamp_path = result.join(".stamp");
    if std::fs::read_to_string(&stamp_path).ok().as_deref() != Some(&stamp) {
        npm(source, &["ci", "--no-audit", "--no-fund"])?;
        npm(source, &["run", "build"])?;
        attempt("writing", &stamp_path, std::fs::write(&stamp_path, &stamp))?;
    }
    let mut files = Vec::new();
    walk(&result, &result, &mut files)?;
    files.retain(|(path, _)| path != ".stamp");
    if !files.iter().any(|(path, _)| path.ends_with(".html")) {
        return Err(format!("the dashboard's build left no page in {}", result.display()));
    }
    Ok(files)
}

fn npm(directory: &Path, arguments: &[&str]) -> Result<(), String> {
    let what = arguments.join(" ");
    let output = Command::new("npm")
        .current_dir(directory)
        .args(arguments)
        .output()
        .map_err(|error| format!("starting `npm {what}`: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "`npm {what}` in {} failed ({}); {SKIP}=1 builds without the dashboard\n{}\n{}",
        directory.display(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    ))
}

/// All files under `directory`, in a fixed order, by their path relative to `root`. Made folders are left out.
pub fn walk(root: &Path, directory: &Path, found: &mut Vec<(String, Vec<u8>)>) -> Result<(), String> {
    let entries = attempt("listing", directory, std::fs::read_dir(directory))?;
    let mut paths: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let relative = path.strip_prefix(root).unwrap_or(&path).to_string_lossy().into_owned();
        if path.is_dir() {
            if !(root == directory && MADE.contains(&relative.as_str())) {
                walk(root, &path, found)?;
            }
        } else {
            let bytes = attempt("reading", &path, std::fs::read(&path))?;
            found.push((relative, bytes));
        }
    }
    Ok(())
}
