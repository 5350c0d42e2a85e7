//! Users and groups of the sandbox, read from /etc/passwd and /etc/group.
//!
//! The files are parsed here because a static glibc binary can't use `getpwnam` (it loads shared name-service modules).
//! They are read anew for every question, so that a user added inside is known at once. Neighbours: `auth` decides
//! which user a request acts as, `spawn` becomes that user.

use std::fs::File;
use std::io::Read;

const USUAL_DATABASE_BYTES: usize = 8 * 1024;
/// More than any real file of users; what lies beyond isn't read.
const MAX_DATABASE_BYTES: u64 = 4 * 1024 * 1024;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Account {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub home: String,
    /// Supplementary groups, the primary group first.
    pub groups: Vec<u32>,
}

/// A name that isn't known here.
#[derive(Debug, thiserror::Error)]
pub enum LookupError {
    #[error("user '{0}' doesn't exist in the sandbox")]
    Unknown(String),
    #[error("the sandbox's users can't be read from {path}: {source}")]
    Unreadable { path: &'static str, source: std::io::Error },
}

fn read_database(path: &'static str) -> Result<String, LookupError> {
    // Room for most such files: without it the reading would begin with many small steps.
    let mut text = Vec::with_capacity(USUAL_DATABASE_BYTES);
    match File::open(path).and_then(|file| file.take(MAX_DATABASE_BYTES).read_to_end(&mut text)) {
        Ok(_) => {
            Ok(String::from_utf8(text).unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(String::new()),
        Err(source) => Err(LookupError::Unreadable { path, source }),
    }
}

/// Finds a user by name; `root` exists even in an image without /etc/passwd.
pub fn by_name(name: &str) -> Result<Account, LookupError> {
    let passwd = read_database("/etc/passwd")?;
    let entry = passwd.lines().filter_map(PasswdLine::parse).find(|entry| entry.name == name);
    let mut account = match entry {
        Some(entry) => entry.into_account(),
        None if name == "root" => {
            Account { name: "root".into(), uid: 0, gid: 0, home: "/root".into(), groups: Vec::new() }
        }
        None => return Err(LookupError::Unknown(name.to_owned())),
    };
    account.groups = supplementary_groups(&read_database("/etc/group")?, &account);
    Ok(account)
}

/// Names of users and groups by id, read once for a listing of many files.
#[derive(Default)]
pub struct Names {
    users: Vec<(u32, String)>,
    groups: Vec<(u32, String)>,
}

impl Names {
    /// Reads both databases; what can't be read leaves ids without names.
    pub fn load() -> Self {
        let passwd = read_database("/etc/passwd").unwrap_or_default();
        let group = read_database("/etc/group").unwrap_or_default();
        Self {
            users: passwd.lines().filter_map(PasswdLine::parse).map(|line| (line.uid, line.name.to_owned())).collect(),
            groups: group.lines().filter_map(GroupLine::parse).map(|line| (line.gid, line.name.to_owned())).collect(),
        }
    }

    pub fn user(&self, uid: u32) -> String {
        name_or_number(&self.users, uid)
    }

    pub fn group(&self, gid: u32) -> String {
        name_or_number(&self.groups, gid)
    }
}

fn name_or_number(names: &[(u32, String)], id: u32) -> String {
    names.iter().find(|(known, _)| *known == id).map_or_else(|| id.to_string(), |(_, name)| name.clone())
}

struct PasswdLine<'a> {
    name: &'a str,
    uid: u32,
    gid: u32,
    home: &'a str,
}

impl<'a> PasswdLine<'a> {
    /// `name:password:uid:gid:comment:home:shell`
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        let home = fields.nth(1)?;
        Some(Self { name, uid, gid, home: if home.is_empty() { "/" } else { home } })
    }

    fn into_account(self) -> Account {
        Account { name: self.name.into(), uid: self.uid, gid: self.gid, home: self.home.into(), groups: Vec::new() }
    }
}

struct GroupLine<'a> {
    name: &'a str,
    gid: u32,
    members: &'a str,
}

impl<'a> GroupLine<'a> {
    /// `name:password:gid:member,member`
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split(':');
        let name = fields.next().filter(|name| !name.is_empty() && !name.starts_with('#'))?;
        let gid = fields.nth(1)?.parse().ok()?;
        Some(Self { name, gid, members: fields.next().unwrap_or("") })
    }
}

fn supplementary_groups(database: &str, account: &Account) -> Vec<u32> {
    /// NGROUPS_MAX of Linux.
    const MAX_GROUPS: usize = 65_536;
    let mut groups = vec![account.gid];
    for line in database.lines().filter_map(GroupLine::parse) {
        let member = line.members.split(',').any(|member| member.trim() == account.name);
        if member && !groups.contains(&line.gid) && groups.len() < MAX_GROUPS {
            groups.push(line.gid);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GROUPS: &str = "root:x:0:\nsudo:x:27:user,other\nuser:x:1000:user\n#no:x:5:user\nbad line\ndocker:x:99:userx";

    #[test]
    fn a_line_of_passwd_becomes_an_account_with_its_groups() {
        let line = PasswdLine::parse("user:x:1000:1000:A, User,,:/home/user:/bin/bash").expect("parses");
        let account = line.into_account();
        assert_eq!((account.uid, account.gid, account.home.as_str()), (1000, 1000, "/home/user"));
        assert_eq!(supplementary_groups(GROUPS, &account), [1000, 27]);
    }

    #[test]
    fn lines_that_are_broken_are_passed_over() {
        for line in
            ["", "#root:x:0:0::/:", "root", "root:x:0", "root:x:zero:0::/root:", "root:x:0:-1::/root:", ":x:0:0::/:"]
        {
            assert!(PasswdLine::parse(line).is_none(), "{line:?}");
        }
        assert_eq!(PasswdLine::parse("a:x:1:2:::").map(|line| line.home), Some("/"));
    }

    proptest! {
        #[test]
        fn any_text_is_parsed_without_a_panic_and_any_account_is_found_again(
            noise in "[^\n]{0,60}", name in "[a-z_][a-z0-9_-]{0,30}", uid: u32, gid: u32, home in "/[a-z/]{0,20}",
        ) {
            let _ = PasswdLine::parse(&noise);
            let _ = GroupLine::parse(&noise);
            let line = format!("{name}:x:{uid}:{gid}:comment:{home}:/bin/sh");
            let account = PasswdLine::parse(&line).expect("a well-formed line parses").into_account();
            prop_assert_eq!((account.name, account.uid, account.gid, account.home), (name, uid, gid, home));
        }
    }
}
