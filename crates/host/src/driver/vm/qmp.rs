//! QEMU's own protocol, as far as it is needed: one JSON value per line, each command a type that names its answer.

use std::io::{self, IoSlice};
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::path::Path;
use std::time::Duration;

use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Interest};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};

use crate::driver::connectable;

/// QEMU answers at once, but for what its main loop is busy with.
const PATIENCE: Duration = Duration::from_secs(10);
/// The longest answer: a ring buffer's content, escaped.
const MAX_LINE: usize = 1 << 20;

/// A command; its fields are its arguments.
pub(super) trait Command: Serialize {
    const NAME: &'static str;
    type Answer: DeserializeOwned;
}

#[derive(Debug, Deserialize)]
pub(super) struct Nothing {}

macro_rules! command {
    ($(#[$doc:meta])* $name:ident $wire:literal -> $answer:ty { $($(#[$attribute:meta])* $field:ident: $kind:ty),* }) => {
        $(#[$doc])*
        #[derive(Debug, Serialize)]
        pub(super) struct $name { $($(#[$attribute])* pub $field: $kind),* }
        impl Command for $name {
            const NAME: &'static str = $wire;
            type Answer = $answer;
        }
    };
}

command!(Capabilities "qmp_capabilities" -> Nothing {});
command!(
    /// What the guest wrote to its console.
    ReadConsole "ringbuf-read" -> String { device: &'static str, size: usize }
);

command!(Stop "stop" -> Nothing {});
command!(Cont "cont" -> Nothing {});
command!(QueryStatus "query-status" -> RunState {});
command!(
    /// Takes the descriptor that travels with it, under a name.
    GetFd "getfd" -> Nothing { fdname: &'static str }
);
command!(
    /// Takes the descriptor that travels with it, by a number that is answered.
    AddFd "add-fd" -> Added {}
);
command!(RemoveFd "remove-fd" -> Nothing {
    #[serde(rename = "fdset-id")]
    fdset_id: u64
});
command!(
    /// Writes down what the devices are, and nothing of the memory; answers when that is done.
    SaveDevices "xen-save-devices-state" -> Nothing { filename: String, live: bool }
);
command!(MigrateCapabilities "migrate-set-capabilities" -> Nothing { capabilities: [Capability; 1] });
command!(
    /// Reads one that was written away; answers when it has begun.
    MigrateIncoming "migrate-incoming" -> Nothing { uri: &'static str }
);

#[derive(Debug, Serialize)]
pub(super) struct Capability {
    pub capability: &'static str,
    pub state: bool,
}

#[derive(Debug, Deserialize)]
pub(super) struct RunState {
    pub running: bool,
    pub status: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Added {
    #[serde(rename = "fdset-id")]
    pub fdset_id: u64,
}

pub(super) struct Qmp {
    read: BufReader<OwnedReadHalf>,
    write: OwnedWriteHalf,
}

impl Qmp {
    /// Connects and agrees on the protocol. One at a time: QEMU talks to the first and lets others wait.
    pub async fn connect(path: &Path) -> io::Result<Self> {
        let name = connectable(path)?;
        let (read, write) = UnixStream::connect(name.path()).await?.into_split();
        let mut qmp = Self { read: BufReader::new(read), write };
        qmp.execute(&Capabilities {}).await?;
        Ok(qmp)
    }

    pub async fn execute<C: Command>(&mut self, command: &C) -> io::Result<C::Answer> {
        self.execute_with(command, None).await
    }

    /// The same, with a descriptor that QEMU gets a copy of.
    pub async fn execute_with<C: Command>(
        &mut self,
        command: &C,
        descriptor: Option<BorrowedFd<'_>>,
    ) -> io::Result<C::Answer> {
        self.execute_within(command, descriptor, PATIENCE).await
    }

    /// The same, for one that may take longer. A talk in which an answer was not waited for is of no more use.
    pub async fn execute_within<C: Command>(
        &mut self,
        command: &C,
        descriptor: Option<BorrowedFd<'_>>,
        patience: Duration,
    ) -> io::Result<C::Answer> {
        let talk = async {
            let text = serde_json::json!({ "execute": C::NAME, "arguments": command });
            let text = format!("{text}\n");
            match descriptor {
                Some(descriptor) => self.send_with(text.as_bytes(), descriptor).await?,
                None => self.write.write_all(text.as_bytes()).await?,
            }
            loop {
                let line = self.line().await?;
                if let Some(answer) = answer_in(&line)? {
                    return Ok(answer);
                }
            }
        };
        let named = |error: io::Error| io::Error::new(error.kind(), format!("QEMU, asked for {}: {error}", C::NAME));
        match tokio::time::timeout(patience, talk).await {
            Ok(result) => result.map_err(named),
            Err(_) => Err(named(io::ErrorKind::TimedOut.into())),
        }
    }

    /// One short packet: it goes as a whole or not at all.
    async fn send_with(&self, text: &[u8], descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let stream: &UnixStream = self.write.as_ref();
        let sent = stream.async_io(Interest::WRITABLE, || {
            let fds = [descriptor];
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
            let mut control = SendAncillaryBuffer::new(&mut space);
            control.push(SendAncillaryMessage::ScmRights(&fds));
            let sent = rustix::net::sendmsg(stream, &[IoSlice::new(text)], &mut control, SendFlags::NOSIGNAL);
            sent.map_err(io::Error::from)
        });
        if sent.await? == text.len() { Ok(()) } else { Err(io::ErrorKind::WriteZero.into()) }
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        let mut line = Vec::new();
        loop {
            let available = self.read.fill_buf().await?;
            if available.is_empty() {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let end = available.iter().position(|byte| *byte == b'\n');
            let taken = end.map_or(available.len(), |end| end + 1);
            line.extend_from_slice(&available[..taken]);
            self.read.consume(taken);
            if end.is_some() {
                return Ok(line);
            }
            if line.len() > MAX_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a line without an end"));
            }
        }
    }
}

/// Whether QEMU has ended, by what became of a talk with it.
pub(super) fn is_gone(error: &io::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionRefused, ConnectionReset, UnexpectedEof};
    matches!(error.kind(), BrokenPipe | ConnectionRefused | ConnectionReset | UnexpectedEof)
}

/// The answer in a line; none in what nobody asked for.
fn answer_in<T: DeserializeOwned>(line: &[u8]) -> io::Result<Option<T>> {
    let mut value: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(line)?;
    if let Some(error) = value.get("error") {
        let text = error.get("desc").and_then(serde_json::Value::as_str).unwrap_or("an error without a word");
        return Err(io::Error::other(text.to_owned()));
    }
    value.remove("return").map(serde_json::from_value).transpose().map_err(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn answers_errors_and_events_are_told_apart() {
        assert_eq!(answer_in::<String>(br#"{"return":"text"}"#).unwrap(), Some("text".to_owned()));
        assert_eq!(answer_in::<String>(br#"{"event":"STOP","timestamp":{}}"#).unwrap(), None);
        assert_eq!(answer_in::<String>(br#"{"QMP":{"version":{}}}"#).unwrap(), None);
        let error = answer_in::<Nothing>(br#"{"error":{"class":"GenericError","desc":"no such device"}}"#);
        assert_eq!(error.unwrap_err().to_string(), "no such device");
        assert!(answer_in::<String>(b"[]").is_err());
    }

    proptest! {
        #[test]
        fn no_line_is_too_strange(line in proptest::collection::vec(any::<u8>(), 0..300)) {
            let _told = answer_in::<String>(&line);
        }
    }

    #[tokio::test]
    async fn a_command_is_one_line_and_its_answer_the_next_that_is_one() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("qmp.sock");
        let listener = tokio::net::UnixListener::bind(&path).unwrap();
        let qemu = tokio::spawn(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let (read, mut write) = stream.into_split();
            let mut lines = BufReader::new(read).lines();
            write.write_all(b"{\"QMP\":{}}\n").await.unwrap();
            let mut asked = Vec::new();
            for answer in ["{\"return\":{}}\n", "{\"event\":\"X\"}\n{\"return\":\"boot\"}\n"] {
                asked.push(lines.next_line().await.unwrap().unwrap());
                write.write_all(answer.as_bytes()).await.unwrap();
            }
            asked
        });
        let mut qmp = Qmp::connect(&path).await.unwrap();
        let console = qmp.execute(&ReadConsole { device: "console", size: 10 }).await.unwrap();
        assert_eq!(console, "boot");
        assert_eq!(qemu.await.unwrap()[1], r#"{"arguments":{"device":"console","size":10},"execute":"ringbuf-read"}"#);
        assert!(qmp.execute(&ReadConsole { device: "console", size: 10 }).await.is_err());
    }
}
