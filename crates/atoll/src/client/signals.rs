//! Signals that reach the command, as they come.

use std::io;
use std::task::Poll;

use tokio::signal::unix::{Signal, SignalKind, signal};

/// A signal that is passed on, or the news that the terminal has another size.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Caught {
    Hangup,
    Interrupt,
    Quit,
    Terminate,
    User1,
    User2,
    Resized,
}

impl Caught {
    const ALL: [Self; 7] =
        [Self::Interrupt, Self::Terminate, Self::Hangup, Self::Quit, Self::User1, Self::User2, Self::Resized];

    fn kind(self) -> SignalKind {
        match self {
            Self::Hangup => SignalKind::hangup(),
            Self::Interrupt => SignalKind::interrupt(),
            Self::Quit => SignalKind::quit(),
            Self::Terminate => SignalKind::terminate(),
            Self::User1 => SignalKind::user_defined1(),
            Self::User2 => SignalKind::user_defined2(),
            Self::Resized => SignalKind::window_change(),
        }
    }

    pub fn number(self) -> u8 {
        u8::try_from(self.kind().as_raw_value()).unwrap_or(15)
    }

    /// As the API names it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hangup => "SIGHUP",
            Self::Interrupt => "SIGINT",
            Self::Quit => "SIGQUIT",
            Self::Terminate => "SIGTERM",
            Self::User1 => "SIGUSR1",
            Self::User2 => "SIGUSR2",
            Self::Resized => "SIGWINCH",
        }
    }

    /// Whether the sender wants this command to end.
    pub fn ends(self) -> bool {
        matches!(self, Self::Hangup | Self::Interrupt | Self::Quit | Self::Terminate)
    }
}

/// From here on none of these signals ends the process by itself.
pub struct Signals {
    streams: Vec<(Caught, Signal)>,
}

impl Signals {
    pub fn install() -> io::Result<Self> {
        let streams = Caught::ALL.into_iter().map(|caught| Ok((caught, signal(caught.kind())?)));
        Ok(Self { streams: streams.collect::<io::Result<_>>()? })
    }

    /// The next one; cancelling the wait loses none.
    pub async fn next(&mut self) -> Caught {
        std::future::poll_fn(|cx| {
            for (caught, stream) in &mut self.streams {
                if stream.poll_recv(cx).is_ready() {
                    return Poll::Ready(*caught);
                }
            }
            Poll::Pending
        })
        .await
    }

    /// The next one that wants this command to end.
    pub async fn end(&mut self) -> Caught {
        loop {
            let caught = self.next().await;
            if caught.ends() {
                return caught;
            }
        }
    }
}
