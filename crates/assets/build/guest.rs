//! Compiles the guest agent as a static binary, in a target directory of its own.
//!
//! A build script runs while cargo holds the lock of the outer target directory, so the inner cargo gets another
//! one; it stays between builds, so nothing is compiled twice.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::attempt;

const VARIABLE: &str = "ATOLL_GUEST_BINARY";

/// Puts the guest agent at `OUT_DIR/atoll-guest`.
pub fn embed(workspace: &Path, out: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-env-changed={VARIABLE}");
    let binary = match std::env::var_os(VARIABLE).filter(|value| !value.is_empty()) {
        Some(path) => {
            let path = PathBuf::from(path);
            println!("cargo:rerun-if-changed={}", path.display());
            path
        }
        // Made by this run, so newer than its beginning: as a reason to run again it would be one for ever.
        None => compile(workspace)?,
    };
    let target = out.join("atoll-guest");
    attempt("embedding the guest agent from", &binary, std::fs::copy(&binary, &target)).map(drop)
}

fn compile(workspace: &Path) -> Result<PathBuf, String> {
    for source in ["crates/guest", "crates/launch", "crates/rpc", "proto", "Cargo.lock", "Cargo.toml"] {
        println!("cargo:rerun-if-changed={}", workspace.join(source).display());
    }
    let target = std::env::var("TARGET").unwrap_or_else(|_| "x86_64-unknown-linux-gnu".to_owned());
    let directory = workspace.join("target/guest");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command
        .current_dir(workspace)
        .args(["build", "--profile", "guest", "-p", "atoll-guest", "--bin", "atoll-guest"])
        .args(["--target", &target, "--target-dir"])
        .arg(&directory);
    // What the outer cargo says of itself (its flags, its wrapper such as clippy's, this package) must not reach
    // the inner one: it would rebuild every time, or check in place of building.
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy();
        let ours = name.starts_with("CARGO_") && !["CARGO_HOME", "CARGO_NET_OFFLINE"].contains(&&*name);
        let flags = ["RUSTFLAGS", "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTC", "OUT_DIR", "TARGET", "HOST"];
        let flags = flags.contains(&&*name) || ["OPT_LEVEL", "DEBUG", "PROFILE", "NUM_JOBS"].contains(&&*name);
        let kept = name.starts_with("CARGO_REGISTR") || name.starts_with("CARGO_SOURCE_");
        if (ours && !kept) || flags {
            command.env_remove(&*name);
        }
    }
    // At a fixed address there is nothing to relocate: one page fault in three of its start less. With its code at whole
    // 2 MiB of file and address, a launch maps most of it by two page faults, where the file is in pages of that size.
    command.env(
        "RUSTFLAGS",
        "-C target-feature=+crt-static -C relocation-model=static \
         -C link-arg=-Wl,-z,max-page-size=2097152 -C link-arg=-Wl,-z,separate-loadable-segments",
    );
    let output = command.output().map_err(|error| format!("starting cargo for the guest agent: {error}"))?;
    if !output.status.success() {
        return Err(format!(
            "compiling the guest agent failed ({}); to embed a ready one, set {VARIABLE}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        ));
    }
    Ok(directory.join(target).join("guest/atoll-guest"))
}
