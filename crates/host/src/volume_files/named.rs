//! A path in a volume, as text from outside: from the volume's root, in any spelling.

use std::path::PathBuf;

use super::FileError;

const MAX_PATH: usize = 4096;

/// The names on the way from the root; none for the root itself. None is empty, `.` or `..`, or has a slash in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Named(Vec<String>);

impl Named {
    /// # Errors
    /// When it is no path at all.
    pub fn parse(text: &str) -> Result<Self, FileError> {
        let invalid = |problem: &str| FileError::Invalid { field: "path", problem: problem.to_owned() };
        if text.len() > MAX_PATH {
            return Err(invalid("must have at most 4096 bytes"));
        }
        if text.contains('\0') {
            return Err(invalid("must not contain a zero byte"));
        }
        Ok(Self(Vec::new()).joined(text))
    }

    /// Where a link here leads, seen from the directory that it is in.
    #[must_use]
    pub fn linked(&self, target: &str) -> Self {
        let from = if target.starts_with('/') { Self(Vec::new()) } else { self.up() };
        from.joined(target)
    }

    fn joined(mut self, text: &str) -> Self {
        for name in text.split('/') {
            match name {
                "" | "." => {}
                ".." => {
                    self.0.pop();
                }
                name => self.0.push(name.to_owned()),
            }
        }
        self
    }

    /// Relative to the root, as the kernel takes it.
    #[must_use]
    pub fn path(&self) -> PathBuf {
        if self.0.is_empty() { PathBuf::from(".") } else { self.0.iter().collect() }
    }

    #[must_use]
    pub fn parent(&self) -> PathBuf {
        self.up().path()
    }

    /// The directory that it is in; the root of the root.
    #[must_use]
    pub fn up(&self) -> Self {
        Self(self.0.split_last().map_or(&[][..], |(_, parent)| parent).to_vec())
    }

    /// The last name; none of the root.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        self.0.last().map(String::as_str)
    }

    /// Every directory on the way, the topmost first, and what is named at last.
    pub fn on_the_way(&self) -> impl Iterator<Item = Self> + '_ {
        (1..=self.0.len()).map(|count| Self(self.0[..count].to_vec()))
    }

    /// As it is told: absolute.
    #[must_use]
    pub fn shown(&self) -> String {
        format!("/{}", self.0.join("/"))
    }

    #[must_use]
    pub fn child(&self, name: &str) -> Self {
        let mut names = self.0.clone();
        names.push(name.to_owned());
        Self(names)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn every_spelling_of_a_path_is_the_same_path() {
        for (text, shown) in [
            ("", "/"),
            ("/", "/"),
            (".", "/"),
            ("..", "/"),
            ("a", "/a"),
            ("//a/./b//", "/a/b"),
            ("a/../b", "/b"),
            ("../../etc/passwd", "/etc/passwd"),
            ("/a/b/../../..", "/"),
        ] {
            assert_eq!(Named::parse(text).unwrap().shown(), shown, "{text}");
        }
        let link = Named::parse("/a/b/link").unwrap();
        for (target, leads) in [("c", "/a/b/c"), ("../c", "/a/c"), ("/c", "/c"), ("../../../c", "/c")] {
            assert_eq!(link.linked(target).shown(), leads, "{target}");
        }
        assert!(Named::parse("a\0b").is_err() && Named::parse(&"x/".repeat(3000)).is_err());
    }

    proptest! {
        #[test]
        fn no_text_leads_out(text in "[a./\\\\\u{0}é]{0,64}", target in "[a./]{0,32}") {
            if let Ok(named) = Named::parse(&text) {
                for named in [named.linked(&target), named] {
                    let path = named.path();
                    prop_assert!(!path.is_absolute());
                    prop_assert!(!path.components().any(|part| part == std::path::Component::ParentDir));
                    prop_assert_eq!(&Named::parse(&named.shown()).unwrap(), &named);
                }
            }
        }
    }
}
