//! Generates messages and service stubs from proto/, without protoc.

use std::path::{Path, PathBuf};

use prost::Message;

const FILES: [&str; 4] =
    ["atoll/host/v1/host.proto", "atoll/guest/v1/guest.proto", "guest/process.proto", "guest/filesystem.proto"];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let root = Path::new(&std::env::var("CARGO_MANIFEST_DIR")?).join("../../proto");
    let descriptors = protox::compile(FILES, [&root])?;
    let set = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(&set, descriptors.encode_to_vec())?;
    // Its own directives name the descriptor set, which this run writes: with them everything is rebuilt every time.
    connectrpc_build::Config::new()
        .descriptor_set(&set)
        .files(&FILES)
        .include_file("_connectrpc.rs")
        .emit_rerun_directives(false)
        .compile()?;
    println!("cargo:rerun-if-changed={}", root.display());
    Ok(())
}
