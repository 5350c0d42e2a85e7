//! The Markdown report: a row per figure with its goal, the peers beside them, and where the time goes.

use std::fmt::Write;

use anyhow::Result;

use crate::stats::Samples;

struct Row {
    what: String,
    goal: &'static str,
    measured: String,
    met: Option<bool>,
}

struct Peer {
    key: &'static str,
    what: &'static str,
    outcome: Result<Samples, String>,
}

/// Collected results.
pub struct Report {
    header: Vec<String>,
    rows: Vec<Row>,
    peers: Vec<Peer>,
    ratios: Vec<(&'static str, f64, &'static [&'static str])>,
    steps: Vec<(String, Samples)>,
    notes: Vec<String>,
    /// Sections of rows that other programs measured.
    sections: Vec<(&'static str, String)>,
}

impl Report {
    pub fn new(header: Vec<String>) -> Self {
        Self { header, rows: vec![], peers: vec![], ratios: vec![], steps: vec![], notes: vec![], sections: vec![] }
    }

    /// A time in milliseconds with goals for median and p99.
    pub fn time(&mut self, what: &str, goal: &'static str, samples: &Samples, p50: f64, p99: Option<f64>) {
        let met = samples.median() <= p50 && p99.is_none_or(|limit| samples.p99() <= limit);
        let measured = format!("{:.2} ms p50, {:.2} ms p99 (n = {})", samples.median(), samples.p99(), samples.len());
        self.rows.push(Row { what: what.to_owned(), goal, measured, met: Some(met) });
    }

    pub fn row(&mut self, what: &str, goal: &'static str, measured: String, met: Option<bool>) {
        self.rows.push(Row { what: what.to_owned(), goal, measured, met });
    }

    /// Atoll's median to be set beside the medians of the named peers.
    pub fn ratio(&mut self, what: &'static str, median: f64, peers: &'static [&'static str]) {
        self.ratios.push((what, median, peers));
    }

    pub fn step(&mut self, name: &str, ms: f64) {
        match self.steps.iter_mut().find(|(known, _)| known == name) {
            Some((_, samples)) => samples.push_value(ms),
            None => {
                let mut samples = Samples::default();
                samples.push_value(ms);
                self.steps.push((name.to_owned(), samples));
            }
        }
    }

    pub fn peer(&mut self, key: &'static str, what: &'static str, outcome: Result<Samples>) {
        self.peers.push(Peer { key, what, outcome: outcome.map_err(|error| format!("{error:#}")) });
    }

    /// Rows that another program has measured, as Markdown.
    pub fn section(&mut self, title: &'static str, rows: String) {
        self.sections.push((title, rows));
    }

    pub fn note(&mut self, text: String) {
        self.notes.push(text);
    }

    pub fn markdown(&self) -> String {
        let mut out = String::from("# Measured\n\nBy `scripts/bench.sh`; everything in one run on one machine.\n\n");
        for line in &self.header {
            let _ = writeln!(out, "- {line}");
        }
        out.push_str("\n| what | goal | measured | met |\n| --- | --- | --- | --- |\n");
        for row in &self.rows {
            let met = row.met.map_or("", |met| if met { "yes" } else { "**no**" });
            let _ = writeln!(out, "| {} | {} | {} | {met} |", row.what, row.goal, row.measured);
        }
        for (title, rows) in &self.sections {
            let _ = write!(out, "\n## {title}\n\n| what | goal | measured | met |\n| --- | --- | --- | --- |\n{rows}");
        }
        if !self.peers.is_empty() {
            out.push_str("\n## Peers, in the same run\n\n| what | p50 | p99 | n |\n| --- | --- | --- | --- |\n");
        }
        for peer in &self.peers {
            let _ = match &peer.outcome {
                Ok(samples) => {
                    let (p50, p99) = (samples.median(), samples.p99());
                    writeln!(out, "| {} | {p50:.2} ms | {p99:.2} ms | {} |", peer.what, samples.len())
                }
                Err(error) => writeln!(out, "| {} | didn't run: {} | | |", peer.what, error.replace(['\n', '|'], " ")),
            };
        }
        self.write_ratios(&mut out);
        if !self.steps.is_empty() {
            out.push_str("\n## Where the time of a create goes\n\nAs the server tells in `Server-Timing`; the host's ");
            out.push_str("steps overlap where they run side by side.\n\n| step | p50 | p99 |\n| --- | --- | --- |\n");
        }
        for (name, samples) in &self.steps {
            let _ = writeln!(out, "| {name} | {:.3} ms | {:.3} ms |", samples.median(), samples.p99());
        }
        if !self.notes.is_empty() {
            out.push_str("\n## Notes\n\n");
        }
        for note in &self.notes {
            let _ = writeln!(out, "- {note}");
        }
        out
    }

    fn write_ratios(&self, out: &mut String) {
        let mut lines = String::new();
        for (what, median, keys) in &self.ratios {
            for key in *keys {
                let Some(peer) = self.peers.iter().find(|peer| peer.key == *key) else { continue };
                if let Ok(samples) = &peer.outcome {
                    let _ = writeln!(lines, "| {what} | {} | {:.2} |", peer.what, median / samples.median());
                }
            }
        }
        if !lines.is_empty() {
            out.push_str("\n## Ratios (Atoll's median / the peer's; below 1 Atoll is quicker)\n\n");
            out.push_str("| Atoll | peer | ratio |\n| --- | --- | --- |\n");
            out.push_str(&lines);
        }
    }
}
