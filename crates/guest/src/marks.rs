//! Files that say which sandbox this is, beside the variables of the same names: programs that were written for E2B's
//! sandboxes look there too.

use std::fs::{DirBuilder, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use crate::config::Config;
use crate::guest::Guest;

const FOLDER: &str = "/run/e2b";

/// Leaves them, behind whatever else there is to do. Does nothing outside of a sandbox, where this is not the first process.
pub fn leave(guest: &Guest) {
    if std::process::id() == 1 {
        let config = guest.config();
        // Without them it is a sandbox all the same.
        drop(tokio::task::spawn_blocking(move || write(Path::new(FOLDER), &config)));
    }
}

/// Has them lie there before anybody waits for what they will say.
pub fn blank() {
    let _come_later = write(
        Path::new(FOLDER),
        &Config { sandbox_id: "\n".to_owned(), template: "\n".to_owned(), ..Config::default() },
    );
}

/// Leaves them at once.
pub fn leave_now(guest: &Guest) {
    if std::process::id() == 1 {
        let _a_sandbox_all_the_same = write(Path::new(FOLDER), &guest.config());
    }
}

fn write(folder: &Path, config: &Config) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    for (name, text) in
        [(".E2B_SANDBOX", "true"), (".E2B_SANDBOX_ID", &config.sandbox_id), (".E2B_TEMPLATE_ID", &config.template)]
    {
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o644).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
        let mut file = options.open(folder.join(name))?;
        file.write_all(text.as_bytes())?;
        // Not emptied first: a kernel takes care to write such a file to the disk at once.
        if file.metadata()?.len() != text.len() as u64 {
            file.set_len(text.len() as u64)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_say_who_it_is_and_are_written_again_when_that_changes() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("run/e2b");
        for id in ["iaaaaaaaaaaaaaaaaaaaa", "ib"] {
            write(&folder, &Config { sandbox_id: id.to_owned(), template: "base".to_owned(), ..Config::default() })
                .unwrap();
            let read = |name: &str| std::fs::read_to_string(folder.join(name)).unwrap();
            assert_eq!((read(".E2B_SANDBOX").as_str(), read(".E2B_SANDBOX_ID").as_str()), ("true", id));
            assert_eq!(read(".E2B_TEMPLATE_ID"), "base");
        }
    }
}
