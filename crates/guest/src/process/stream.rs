//! A process's events as the stream of messages that `Start` and `Connect` answer with.

use std::time::{Duration, Instant};

use atoll_rpc::process::__buffa::oneof::process_event::Event as WireEvent;
use atoll_rpc::process::__buffa::oneof::process_event::data_event::Output as WireOutput;
use atoll_rpc::process::ProcessEvent;
use atoll_rpc::process::process_event::{DataEvent, EndEvent, KeepAlive, StartEvent};
use connectrpc::{ConnectError, ServiceStream};
use futures::stream;
use tokio::sync::mpsc;

use super::{End, Event};
use crate::reaper::Exit;

/// The stream's next step.
enum Step {
    Started,
    Events,
    /// The end, known from the beginning: the process was gone before anyone listened.
    Ended(End),
    Done,
}

/// What a stream carries, besides how its messages are wrapped.
pub struct Subscription {
    pub pid: u32,
    pub events: Result<mpsc::Receiver<Event>, End>,
    pub keepalive: Duration,
    /// When the stream ends with an error because the caller's time is up.
    pub deadline: Option<Instant>,
    /// The deadline is the process's own, so that its being killed for it is the caller's error to know.
    pub owner: bool,
}

/// The stream: `start`, then data and keepalives, then `end`.
pub fn messages<T: Send + 'static>(subscription: Subscription, wrap: fn(ProcessEvent) -> T) -> ServiceStream<T> {
    let state = (subscription, Step::Started);
    Box::pin(stream::unfold(state, move |(mut subscription, step)| async move {
        let (event, next) = match step {
            Step::Started => {
                let next = match &subscription.events {
                    Ok(_) => Step::Events,
                    Err(end) => Step::Ended(*end),
                };
                (Ok(StartEvent { pid: subscription.pid, ..Default::default() }.into()), next)
            }
            Step::Events => subscription.next().await?,
            Step::Ended(end) => (Ok(end_event(end).into()), Step::Done),
            Step::Done => return None,
        };
        let message = event.map(|event| wrap(ProcessEvent { event: Some(event), ..Default::default() }));
        Some((message, (subscription, next)))
    }))
}

impl Subscription {
    async fn next(&mut self) -> Option<(Result<WireEvent, ConnectError>, Step)> {
        let out_of_time = || ConnectError::deadline_exceeded("the time given to the command is over");
        // The owner's process is killed when its time is up; waiting for its end, which follows at once, means that the
        // process is gone when the caller hears of it.
        let limit = self.deadline.filter(|_| !self.owner);
        let Ok(events) = &mut self.events else { return None };
        tokio::select! {
            biased;
            event = events.recv() => match event? {
                Event::End(End { timed_out: true, .. }) if self.owner => Some((Err(out_of_time()), Step::Done)),
                Event::End(end) => Some((Ok(end_event(end).into()), Step::Done)),
                Event::Stdout(data) => Some((Ok(data_event(WireOutput::Stdout(data.into()))), Step::Events)),
                Event::Stderr(data) => Some((Ok(data_event(WireOutput::Stderr(data.into()))), Step::Events)),
                Event::Terminal(data) => Some((Ok(data_event(WireOutput::Pty(data.into()))), Step::Events)),
            },
            () = crate::awake::sleep_until_some(limit) => Some((Err(out_of_time()), Step::Done)),
            () = tokio::time::sleep(self.keepalive) => Some((Ok(KeepAlive::default().into()), Step::Events)),
        }
    }
}

fn data_event(output: WireOutput) -> WireEvent {
    DataEvent { output: Some(output), ..Default::default() }.into()
}

fn end_event(end: End) -> EndEvent {
    match end.exit {
        Exit::Code(code) => {
            let status = format!("exit status {code}");
            let error = (code != 0).then(|| status.clone());
            EndEvent { exit_code: code, exited: true, status, error, ..Default::default() }
        }
        Exit::Signal(signal) => {
            let status = format!("signal: {}", signal_text(signal));
            EndEvent { exit_code: -1, exited: false, error: Some(status.clone()), status, ..Default::default() }
        }
    }
}

/// The words that the protocol uses for signals.
fn signal_text(signal: i32) -> String {
    let text = match signal {
        libc::SIGHUP => "hangup",
        libc::SIGINT => "interrupt",
        libc::SIGQUIT => "quit",
        libc::SIGILL => "illegal instruction",
        libc::SIGTRAP => "trace/breakpoint trap",
        libc::SIGABRT => "aborted",
        libc::SIGBUS => "bus error",
        libc::SIGFPE => "floating point exception",
        libc::SIGKILL => "killed",
        libc::SIGUSR1 => "user defined signal 1",
        libc::SIGSEGV => "segmentation fault",
        libc::SIGUSR2 => "user defined signal 2",
        libc::SIGPIPE => "broken pipe",
        libc::SIGALRM => "alarm clock",
        libc::SIGTERM => "terminated",
        libc::SIGXCPU => "CPU time limit exceeded",
        libc::SIGXFSZ => "file size limit exceeded",
        libc::SIGSYS => "bad system call",
        other => return format!("signal {other}"),
    };
    text.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_worded_as_the_contract_says() {
        let end = |exit| end_event(End { exit, timed_out: false });
        let ok = end(Exit::Code(0));
        assert_eq!((ok.exit_code, ok.exited, ok.status.as_str(), ok.error), (0, true, "exit status 0", None));
        let failed = end(Exit::Code(3));
        assert_eq!((failed.exit_code, failed.exited, failed.error.as_deref()), (3, true, Some("exit status 3")));
        let killed = end(Exit::Signal(9));
        assert_eq!((killed.exit_code, killed.exited), (-1, false));
        assert_eq!((killed.status.as_str(), killed.error.as_deref()), ("signal: killed", Some("signal: killed")));
    }
}
