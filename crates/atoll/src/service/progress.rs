//! What `atoll up` shows while it starts: a line per step, alive on a terminal, plain elsewhere, none with `--json`.

use std::io::IsTerminal;
use std::time::{Duration, Instant};

use crate::output;

/// The steps of one start.
pub struct Progress {
    silent: bool,
    bar: Option<indicatif::ProgressBar>,
    began: Instant,
}

impl Progress {
    pub fn new(silent: bool) -> Self {
        let alive = !silent && std::io::stderr().is_terminal() && output::colours(&std::io::stderr());
        let bar = alive.then(|| {
            let bar = indicatif::ProgressBar::new_spinner();
            bar.enable_steady_tick(Duration::from_millis(100));
            bar
        });
        Self { silent, bar, began: Instant::now() }
    }

    /// What is going on now.
    pub fn doing(&self, what: &str) {
        if self.silent {
            return;
        }
        match &self.bar {
            Some(bar) => bar.set_message(output::plain(what).into_owned()),
            None => eprintln!("atoll: {what}"),
        }
    }

    /// Everything is done; the lines make way for what follows.
    pub fn finish(&self) -> Duration {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.began.elapsed()
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}
