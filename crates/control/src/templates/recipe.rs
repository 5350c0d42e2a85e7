//! A template's recipe: the files that its build script reads, and the hash that stands for them.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Component, Path};

use sha2::{Digest, Sha256};

/// Said aloud in the hash, so that a change of how images are made can invalidate every cached one.
const FORMAT: &str = "atoll-recipe-1";

/// The files of a recipe by relative path. `build.sh` is the one that is run.
#[derive(Debug, Clone)]
pub struct Recipe {
    name: String,
    files: BTreeMap<String, Vec<u8>>,
}

/// Why some files are not a recipe.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RecipeError {
    #[error("a template's name is 1 to 128 lower-case letters, digits, `-` and `_`, not `{0}`")]
    BadName(String),
    #[error("the recipe of `{0}` has no build.sh")]
    NoScript(String),
    #[error("the recipe of `{name}` has a file outside its folder: `{path}`")]
    BadPath { name: String, path: String },
    #[error("the template `{name}` has no part `{part}`, only: {there}")]
    NoPart { name: String, part: String, there: String },
}

impl Recipe {
    /// A recipe from its files, as the binary carries them: relative paths and contents.
    pub fn new<P: Into<String>, C: Into<Vec<u8>>>(
        name: &str,
        files: impl IntoIterator<Item = (P, C)>,
    ) -> Result<Self, RecipeError> {
        if !is_template_name(name) {
            return Err(RecipeError::BadName(name.to_owned()));
        }
        let files: BTreeMap<String, Vec<u8>> =
            files.into_iter().map(|(path, content)| (path.into(), content.into())).collect();
        if let Some(path) = files.keys().find(|path| !is_inside(path)) {
            return Err(RecipeError::BadPath { name: name.to_owned(), path: path.clone() });
        }
        if !files.contains_key("build.sh") {
            return Err(RecipeError::NoScript(name.to_owned()));
        }
        Ok(Self { name: name.to_owned(), files })
    }

    /// The same recipe for an image that is made from another recipe's: it is another one when that one changes.
    #[must_use]
    pub fn on(mut self, base: &Self) -> Self {
        self.files.insert("base".to_owned(), base.hash().into_bytes());
        self
    }

    /// The same recipe with these optional parts, each of which is a file `parts/NAME.txt`.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn with(mut self, parts: &[String]) -> Result<Self, RecipeError> {
        if let Some(part) = parts.iter().find(|part| !self.files.contains_key(&format!("parts/{part}.txt"))) {
            let there = self.files.keys().filter_map(|path| path.strip_prefix("parts/")?.strip_suffix(".txt"));
            let there = there.collect::<Vec<_>>().join(", ");
            return Err(RecipeError::NoPart { name: self.name, part: part.clone(), there });
        }
        let mut parts = parts.to_vec();
        parts.sort();
        parts.dedup();
        self.files.insert("with".to_owned(), parts.join("\n").into_bytes());
        Ok(self)
    }

    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 over every path and content, hex: what the cache is keyed by.
    #[must_use]
    pub fn hash(&self) -> String {
        let mut hasher = Sha256::new();
        let mut field = |bytes: &[u8]| {
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        };
        field(FORMAT.as_bytes());
        field(self.name.as_bytes());
        for (path, content) in &self.files {
            field(path.as_bytes());
            field(content);
        }
        hex::encode(hasher.finalize())
    }

    /// Writes the files below `directory`, which must exist.
    pub(super) fn write_to(&self, directory: &Path) -> io::Result<()> {
        for (path, content) in &self.files {
            let target = directory.join(path);
            if let Some(parent) = target.parent() {
                fs::create_dir_all(parent)?;
            }
            fs::write(target, content)?;
        }
        Ok(())
    }
}

/// The names that templates may have; they become file names.
#[must_use]
pub fn is_template_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_');
    (1..=128).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(is_plain)
}

fn is_inside(path: &str) -> bool {
    !path.is_empty()
        && !path.contains('\0')
        && Path::new(path).components().all(|part| matches!(part, Component::Normal(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(list: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        list.iter().map(|(path, text)| ((*path).to_owned(), text.as_bytes().to_vec())).collect()
    }

    #[test]
    fn the_hash_changes_with_any_file_and_with_nothing_else() {
        let hash = |list: &[(&str, &str)]| Recipe::new("base", files(list)).unwrap().hash();
        let first = hash(&[("build.sh", "true"), ("a", "1")]);
        assert_eq!(first, hash(&[("a", "1"), ("build.sh", "true")]));
        assert_ne!(first, hash(&[("build.sh", "true"), ("a", "2")]));
        assert_ne!(first, hash(&[("build.sh", "true"), ("b", "1")]));
        assert_ne!(first, hash(&[("build.sh", "truea"), ("1", "")]));
        assert_ne!(first, Recipe::new("other", files(&[("build.sh", "true"), ("a", "1")])).unwrap().hash());
    }

    #[test]
    fn parts_and_the_base_are_part_of_the_hash() {
        let recipe =
            || Recipe::new("x", files(&[("build.sh", ""), ("parts/r.txt", ""), ("parts/java.txt", "")])).unwrap();
        let with = |parts: &[&str]| recipe().with(&parts.iter().map(|part| (*part).to_owned()).collect::<Vec<_>>());
        assert_eq!(with(&["r", "java"]).unwrap().hash(), with(&["java", "r", "r"]).unwrap().hash());
        assert_ne!(with(&["r"]).unwrap().hash(), with(&[]).unwrap().hash());
        assert_eq!(with(&["cobol"]).unwrap_err().to_string(), "the template `x` has no part `cobol`, only: java, r");
        let base = |text: &str| Recipe::new("base", files(&[("build.sh", text)])).unwrap();
        assert_eq!(recipe().on(&base("a")).hash(), recipe().on(&base("a")).hash());
        assert_ne!(recipe().on(&base("a")).hash(), recipe().on(&base("b")).hash());
    }

    #[test]
    fn a_path_out_of_the_folder_or_a_missing_script_is_refused() {
        for path in ["../x", "/etc/passwd", "a/../../b", "", "a\0b"] {
            assert!(Recipe::new("base", files(&[("build.sh", ""), (path, "")])).is_err(), "{path:?}");
        }
        assert_eq!(Recipe::new("base", files(&[])).unwrap_err(), RecipeError::NoScript("base".to_owned()));
        for name in ["", "A", "a/b", "..", "-x"] {
            assert!(Recipe::new(name, files(&[("build.sh", "")])).is_err(), "{name:?}");
        }
    }
}
