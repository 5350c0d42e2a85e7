//! The newest generation of sandboxes that are gone, so that an order that travelled too long finds its grave.
//!
//! A journal in `<data>/destroyed.log`, one line per destroyed sandbox, read and rewritten at start. Bounded by number:
//! what falls out is far older than any request can be.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use atoll_model::SandboxId;

const KEPT: usize = 50_000;

#[derive(Debug)]
pub struct Graves {
    path: PathBuf,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    newest: HashMap<SandboxId, u64>,
    order: VecDeque<SandboxId>,
    journal: File,
    /// Lines in the file.
    lines: usize,
}

impl Graves {
    /// # Errors
    /// When the journal can't be read or rewritten. Lines that make no sense (a power cut) are dropped.
    pub fn open(data_dir: &Path) -> io::Result<Self> {
        let path = data_dir.join("destroyed.log");
        let text = match fs::read(&path) {
            Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            Err(error) => return Err(error),
        };
        let (mut newest, mut order) = (HashMap::new(), VecDeque::new());
        for (id, generation) in text.lines().filter_map(parse) {
            insert(&mut newest, &mut order, id, generation);
        }
        let journal = rewrite(&path, &newest, &order)?;
        let lines = order.len();
        Ok(Self { path, state: Mutex::new(State { newest, order, journal, lines }) })
    }

    /// The newest generation of a sandbox that is gone.
    #[must_use]
    pub fn generation_of(&self, id: &SandboxId) -> Option<u64> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).newest.get(id).copied()
    }

    /// A failure to write is only logged: the memory still has it, and nothing else depends on the file.
    pub fn dig(&self, id: &SandboxId, generation: u64) {
        let mut guard = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let state = &mut *guard;
        if state.newest.get(id).is_some_and(|known| *known >= generation) {
            return;
        }
        insert(&mut state.newest, &mut state.order, id.clone(), generation);
        state.lines += 1;
        let written = if state.lines > 2 * KEPT {
            rewrite(&self.path, &state.newest, &state.order).map(|journal| {
                state.journal = journal;
                state.lines = state.order.len();
            })
        } else {
            state.journal.write_all(format!("{id} {generation}\n").as_bytes())
        };
        if let Err(error) = written {
            tracing::warn!(path = %self.path.display(), %error, "can't write down that a sandbox is gone");
        }
    }
}

fn parse(line: &str) -> Option<(SandboxId, u64)> {
    let (id, generation) = line.split_once(' ')?;
    Some((id.parse().ok()?, generation.parse().ok()?))
}

fn insert(newest: &mut HashMap<SandboxId, u64>, order: &mut VecDeque<SandboxId>, id: SandboxId, generation: u64) {
    if newest.insert(id.clone(), generation).is_none() {
        order.push_back(id);
    }
    if order.len() > KEPT
        && let Some(oldest) = order.pop_front()
    {
        newest.remove(&oldest);
    }
}

fn rewrite(path: &Path, newest: &HashMap<SandboxId, u64>, order: &VecDeque<SandboxId>) -> io::Result<File> {
    let mut text = String::new();
    for id in order {
        if let Some(generation) = newest.get(id) {
            text.push_str(&format!("{id} {generation}\n"));
        }
    }
    crate::agent::credentials::replace(path, text.as_bytes(), crate::agent::credentials::Durability::Process)?;
    OpenOptions::new().append(true).mode(0o600).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_grave_is_found_again_after_a_restart_and_a_torn_line_is_dropped() {
        let dir = tempfile::tempdir().unwrap();
        let id = SandboxId::new();
        let graves = Graves::open(dir.path()).unwrap();
        assert_eq!(graves.generation_of(&id), None);
        graves.dig(&id, 3);
        graves.dig(&id, 7);
        graves.dig(&id, 5);
        let mut file = OpenOptions::new().append(true).open(dir.path().join("destroyed.log")).unwrap();
        file.write_all(b"sb-torn").unwrap();
        let again = Graves::open(dir.path()).unwrap();
        assert_eq!(again.generation_of(&id), Some(7));
        assert_eq!(fs::read_to_string(dir.path().join("destroyed.log")).unwrap(), format!("{id} 7\n"));
    }
}
