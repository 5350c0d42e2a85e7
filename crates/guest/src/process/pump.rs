//! The one task of a process: it carries output to the listeners, watches the clock, and tells the end.
//!
//! The end is told when the process has been collected *and* its output is at its end: a grandchild that holds the
//! pipes delays it, unless somebody sent a signal to end the process (or its time was up). Output that nobody listens
//! to is read and dropped, so the process never stands still for lack of a listener; one that listens slowly slows the
//! process, because the next piece is only read when the last one was taken. What still writes after the end was told
//! is read and dropped until it stops.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use super::descriptors::Output;
use super::transcript::Transcript;
use super::{End, Event, Process};
use crate::guest::Guest;
use crate::logs::Logs;
use crate::reaper::Exit;

/// How long output that a signalled process left behind is still collected while others hold the pipes.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// What the process writes to.
pub enum Outputs {
    Pipes { stdout: Output, stderr: Output },
    Terminal(Output),
}

impl Outputs {
    async fn drain(&self, logs: &Logs, process: &Process) {
        match self {
            Self::Pipes { stdout, stderr } => {
                let transcript = |stream| Some(Transcript::new(logs, process.pid, stream));
                futures::join!(
                    carry(stdout, process, Event::Stdout, transcript("stdout")),
                    carry(stderr, process, Event::Stderr, transcript("stderr"))
                );
            }
            // What somebody types is on the screen, too: it is not kept.
            Self::Terminal(output) => carry(output, process, Event::Terminal, None).await,
        }
    }
}

async fn carry(
    output: &Output,
    process: &Process,
    event: fn(bytes::Bytes) -> Event,
    mut transcript: Option<Transcript<'_>>,
) {
    while let Some(data) = output.next().await {
        if let Some(transcript) = &mut transcript {
            transcript.write(&data);
        }
        process.publish(event(data)).await;
    }
    if let Some(transcript) = &mut transcript {
        transcript.end();
    }
}

/// Runs until the process has ended, has been told of, and nothing writes to its output any more.
pub async fn run(
    guest: Arc<Guest>,
    process: Arc<Process>,
    outputs: Outputs,
    exit: oneshot::Receiver<Exit>,
    deadline: Option<Instant>,
) {
    let mut drain = pin!(outputs.drain(&guest.logs, &process));
    let mut exit = pin!(exit);
    let mut deadline = pin!(crate::awake::sleep_until_some(deadline));
    let mut ended: Option<Exit> = None;
    let mut drained = false;
    let mut timed_out = false;
    loop {
        tokio::select! {
            biased;
            () = &mut drain, if !drained => drained = true,
            // The sender only goes without a word if the guest itself ends.
            status = &mut exit, if ended.is_none() => {
                process.exited.store(true, Ordering::Relaxed);
                ended = Some(status.unwrap_or(Exit::Code(-1)));
            }
            () = &mut deadline, if !timed_out => {
                timed_out = true;
                process.kill();
            }
            () = process.signal_sent.notified() => {}
        }
        if ended.is_some() && (drained || process.hurried.load(Ordering::Relaxed)) {
            break;
        }
    }
    if !drained {
        drained = tokio::time::timeout(LAST_WORDS, &mut drain).await.is_ok();
    }
    let end = End { exit: ended.unwrap_or(Exit::Code(-1)), timed_out };
    guest.processes.remove(&process, end);
    guest.logs.info(match (end.timed_out, end.exit) {
        (true, _) => format!("process {} ran out of time and was killed", process.pid),
        (_, Exit::Code(code)) => format!("process {} exited with {code}", process.pid),
        (_, Exit::Signal(signal)) => format!("process {} was killed by signal {signal}", process.pid),
    });
    process.publish_end(end).await;
    if !drained {
        drain.await;
    }
}
