//! Rows of the report that other programs than the main one measure: Markdown lines in a file that it takes in.

use std::fs::File;
use std::io::Write;
use std::path::Path;

use anyhow::{Context, Result};

/// Prints a row, and adds it to the file if there is one.
///
/// # Errors
/// When the file can't be written.
pub fn row(file: Option<&Path>, what: &str, goal: &str, measured: &str, met: Option<bool>) -> Result<()> {
    println!("{what}: {measured} (goal: {goal})");
    let Some(path) = file else { return Ok(()) };
    let met = met.map_or("", |met| if met { "yes" } else { "**no**" });
    let mut file = File::options().create(true).append(true).open(path).context("opening the file of rows")?;
    writeln!(file, "| {what} | {goal} | {measured} | {met} |").context("writing a row")
}
