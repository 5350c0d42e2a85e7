//! Writes the Rust tables that `lib.rs` includes: the dashboard's files, and the template recipes.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::{Digest, Sha256};

use crate::attempt;
use crate::dashboard::walk;

/// `OUT_DIR/dashboard.rs`: a slice of `DashboardFile`, sorted by path.
pub fn dashboard(files: &[(String, Vec<u8>)], out: &Path) -> Result<(), String> {
    let folder = out.join("dashboard");
    let _ = std::fs::remove_dir_all(&folder);
    attempt("creating", &folder, std::fs::create_dir_all(&folder))?;
    let mut files: Vec<_> = files.iter().collect();
    files.sort();
    let mut code = String::from("&[\n");
    for (number, (path, bytes)) in files.into_iter().enumerate() {
        let plain = folder.join(format!("{number}"));
        attempt("writing", &plain, std::fs::write(&plain, bytes))?;
        let mime = mime(path);
        let mut gzip = "None".to_owned();
        if compresses(mime) && bytes.len() > 512 {
            let packed_path = folder.join(format!("{number}.gz"));
            let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
            let packed = attempt("compressing", &plain, encoder.write_all(bytes).and_then(|()| encoder.finish()))?;
            attempt("writing", &packed_path, std::fs::write(&packed_path, packed))?;
            gzip = format!("Some(include_bytes!({:?}))", packed_path.display().to_string());
        }
        let etag = hex::encode(&Sha256::digest(bytes)[..12]);
        let immutable = path.contains("/immutable/");
        let plain = plain.display().to_string();
        let _ = writeln!(
            code,
            "DashboardFile {{ path: {path:?}, bytes: include_bytes!({plain:?}), gzip: {gzip}, mime: {mime:?}, \
             immutable: {immutable}, hash: {etag:?} }},"
        );
    }
    code.push_str("]\n");
    let target = out.join("dashboard.rs");
    attempt("writing", &target, std::fs::write(&target, code))
}

/// `OUT_DIR/base_recipe.rs` and the like: a slice of relative path and contents of all files below `templates/NAME`.
pub fn recipes(workspace: &Path, out: &Path) -> Result<(), String> {
    recipe(&workspace.join("templates/base"), &out.join("base_recipe.rs"))?;
    recipe(&workspace.join("templates/code-interpreter"), &out.join("code_interpreter_recipe.rs"))
}

fn recipe(folder: &Path, target: &Path) -> Result<(), String> {
    println!("cargo:rerun-if-changed={}", folder.display());
    let mut files = Vec::new();
    if folder.is_dir() {
        walk(folder, folder, &mut files)?;
    }
    // What running the server or its tests in place leaves is no part of the recipe.
    files.retain(|(name, _)| !name.contains("__pycache__"));
    let mut code = String::from("&[\n");
    for (name, _) in files {
        let _ = writeln!(code, "({name:?}, include_str!({:?})),", folder.join(&name).display().to_string());
    }
    code.push_str("]\n");
    attempt("writing", target, std::fs::write(target, code))
}

fn mime(path: &str) -> &'static str {
    match path.rsplit('.').next().unwrap_or_default() {
        "html" => "text/html; charset=utf-8",
        "js" | "mjs" => "text/javascript; charset=utf-8",
        "css" => "text/css; charset=utf-8",
        "json" | "map" => "application/json",
        "webmanifest" => "application/manifest+json",
        "svg" => "image/svg+xml",
        "png" => "image/png",
        "jpg" | "jpeg" => "image/jpeg",
        "webp" => "image/webp",
        "ico" => "image/x-icon",
        "woff2" => "font/woff2",
        "woff" => "font/woff",
        "wasm" => "application/wasm",
        "txt" => "text/plain; charset=utf-8",
        _ => "application/octet-stream",
    }
}

fn compresses(mime: &str) -> bool {
    mime.starts_with("text/") || mime.contains("json") || mime == "image/svg+xml" || mime == "application/wasm"
}
