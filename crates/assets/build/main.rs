//! Makes what the binary carries: compiles the guest agent, builds the dashboard, lists the template recipes.
//!
//! | variable | effect |
//! | --- | --- |
//! | `ATOLL_GUEST_BINARY` | a guest agent to embed as it is, in place of compiling one |
//! | `ATOLL_SKIP_DASHBOARD` | `1`: embed the page that says how to get the dashboard, for quick builds |

mod dashboard;
mod guest;
mod table;

use std::path::{Path, PathBuf};

fn main() {
    println!("cargo:rerun-if-changed=build");
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let workspace = workspace.canonicalize().unwrap_or(workspace);
    let out = PathBuf::from(std::env::var_os("OUT_DIR").unwrap_or_default());
    let result = guest::embed(&workspace, &out)
        .and_then(|()| dashboard::embed(&workspace, &out))
        .and_then(|()| table::recipes(&workspace, &out));
    if let Err(problem) = result {
        // Cargo prints a build script's stderr as it is when the script fails.
        eprintln!("\natoll-assets: {problem}\n");
        std::process::exit(1);
    }
}

/// Runs `action` and says in an error what was attempted.
fn attempt<T>(what: &str, path: &Path, result: std::io::Result<T>) -> Result<T, String> {
    result.map_err(|error| format!("{what} {}: {error}", path.display()))
}
