//! Directories, as a tar stream between a thread here and `tar` in the sandbox.
//!
//! What comes out of a sandbox is hostile: nothing is unpacked outside the destination, no owner, no special mode
//! bits and no device is taken over.

use std::io::{self, Read, Write};
use std::path::Path;

use anyhow::{Context, bail};
use atoll_client::model::SandboxId;
use atoll_client::{Client, Event, Input, Session, Start};
use bytes::{Buf, Bytes};
use tokio::sync::mpsc;

use super::cp::Progress;
use crate::output;

const QUEUE: usize = 8;
const CHUNK: usize = 128 << 10;
/// Of what tar complains about, so much is shown.
const MAX_COMPLAINT: usize = 2048;

/// Packs `local` and unpacks it as `target` in the sandbox. Answers with the bytes that went over.
pub async fn upload(
    client: &Client,
    id: &SandboxId,
    local: &Path,
    target: &str,
    user: Option<&str>,
    progress: &Progress,
) -> anyhow::Result<u64> {
    let what = || format!("copying {} to {target} in {id}", local.display());
    // "$0" keeps any path one word, whatever is in it.
    let script = "mkdir -p -- \"$0\" && exec tar -x -f - --no-same-owner -C \"$0\"";
    let start = Start {
        cmd: Some("sh".to_owned()),
        args: vec!["-c".to_owned(), script.to_owned(), target.to_owned()],
        user: user.map(str::to_owned),
        stdin: true,
        ..Start::default()
    };
    let session = client.exec_stream(id, start).await.with_context(what)?;
    let (sender, mut chunks) = mpsc::channel(QUEUE);
    let root = local.to_owned();
    let packing = tokio::task::spawn_blocking(move || pack(&root, Chunks { sender, buffer: Vec::new() }));
    let (mut to, mut from) = session.split();
    let mut bytes = 0;
    let sending = async {
        while let Some(chunk) = chunks.recv().await {
            bytes += Bytes::len(&chunk) as u64;
            progress.add(chunk.len());
            if to.send(Input::Bytes(chunk)).await.is_err() {
                break;
            }
        }
        let _ = to.send(Input::CloseStdin).await;
        // Lets the packing thread end when the other side is gone.
        drop(chunks);
    };
    let receiving = async {
        let mut complaint = Vec::new();
        while let Some(event) = from.next().await? {
            match event {
                Event::Stderr(bytes) => complain(&mut complaint, &bytes),
                Event::Exited { code, .. } => return Ok((code, complaint)),
                _ => {}
            }
        }
        bail!("tar in the sandbox ended without an exit code")
    };
    let ((), ended) = tokio::join!(sending, receiving);
    let packed = packing.await.context("packing")?;
    sent(packed, ended.with_context(what)?).with_context(what)?;
    Ok(bytes)
}

/// What went wrong, if something did. What couldn't be read here comes first: tar in the sandbox then saw an archive that
/// breaks off. Where the sandbox took no more, tar there says why.
fn sent(packed: io::Result<()>, ended: (i32, Vec<u8>)) -> anyhow::Result<()> {
    match packed {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => Err(error.into()),
        packed => {
            check(ended)?;
            Ok(packed?)
        }
    }
}

/// Packs `path` in the sandbox and unpacks it as `target` here.
pub async fn download(
    client: &Client,
    id: &SandboxId,
    path: &str,
    target: &Path,
    user: Option<&str>,
    progress: &Progress,
) -> anyhow::Result<u64> {
    let what = || format!("copying {path} from {id}");
    std::fs::create_dir_all(target).with_context(|| format!("making {}", target.display()))?;
    let start = Start {
        cmd: Some("tar".to_owned()),
        args: ["-c", "-f", "-", "-C", path, "."].map(str::to_owned).to_vec(),
        user: user.map(str::to_owned),
        ..Start::default()
    };
    let mut session = client.exec_stream(id, start).await.with_context(what)?;
    let (sender, chunks) = mpsc::channel(QUEUE);
    let root = target.to_owned();
    let unpacking = tokio::task::spawn_blocking(move || unpack(&root, Reader { chunks, current: Bytes::new() }));
    let ended = receive(&mut session, sender, progress).await;
    let unpacked = unpacking.await.context("unpacking")?;
    let (bytes, code, complaint) = ended.with_context(what)?;
    unpacked.with_context(|| format!("unpacking into {}", target.display()))?;
    check((code, complaint)).with_context(what)?;
    Ok(bytes)
}

async fn receive(
    session: &mut Session,
    chunks: mpsc::Sender<Bytes>,
    progress: &Progress,
) -> anyhow::Result<(u64, i32, Vec<u8>)> {
    let (mut bytes, mut complaint) = (0, Vec::new());
    while let Some(event) = session.next().await? {
        match event {
            Event::Stdout(chunk) => {
                bytes += chunk.len() as u64;
                progress.add(chunk.len());
                if chunks.send(chunk).await.is_err() {
                    // Unpacking has failed, and says why.
                    return Ok((bytes, 0, complaint));
                }
            }
            Event::Stderr(chunk) => complain(&mut complaint, &chunk),
            Event::Exited { code, .. } => return Ok((bytes, code, complaint)),
            Event::Started { .. } => {}
        }
    }
    bail!("tar in the sandbox ended without an exit code")
}

fn complain(complaint: &mut Vec<u8>, bytes: &[u8]) {
    let room = MAX_COMPLAINT.saturating_sub(complaint.len());
    complaint.extend_from_slice(&bytes[..bytes.len().min(room)]);
}

fn check((code, complaint): (i32, Vec<u8>)) -> anyhow::Result<()> {
    if code == 0 {
        return Ok(());
    }
    let complaint = String::from_utf8_lossy(&complaint);
    bail!("tar in the sandbox ended with {code}: {}", output::plain(complaint.trim()))
}

fn pack(root: &Path, chunks: Chunks) -> io::Result<()> {
    let mut archive = tar::Builder::new(chunks);
    archive.follow_symlinks(false);
    archive.append_dir_all(".", root)?;
    archive.into_inner()?.flush()
}

fn unpack(root: &Path, reader: Reader) -> io::Result<()> {
    let mut archive = tar::Archive::new(reader);
    archive.set_preserve_permissions(false);
    archive.set_preserve_ownerships(false);
    archive.set_unpack_xattrs(false);
    for entry in archive.entries()? {
        let mut entry = entry?;
        let kind = entry.header().entry_type();
        if kind.is_file() || kind.is_dir() || kind.is_symlink() || kind.is_hard_link() || kind.is_contiguous() {
            entry.unpack_in(root)?;
        }
    }
    // What follows the end mark is padding.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map(drop)
}

/// Collects what is written into chunks for the queue.
struct Chunks {
    sender: mpsc::Sender<Bytes>,
    buffer: Vec<u8>,
}

impl Write for Chunks {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.buffer.extend_from_slice(bytes);
        if self.buffer.len() >= CHUNK {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let chunk = Bytes::from(std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK)));
        self.sender
            .blocking_send(chunk)
            .map_err(|_| io::Error::new(io::ErrorKind::BrokenPipe, "the sandbox takes no more"))
    }
}

/// Reads from the queue.
struct Reader {
    chunks: mpsc::Receiver<Bytes>,
    current: Bytes,
}

impl Read for Reader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk,
                None => return Ok(0),
            }
        }
        let length = buffer.len().min(self.current.len());
        self.current.copy_to_slice(&mut buffer[..length]);
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(root: &Path) -> Vec<Bytes> {
        let (sender, mut chunks) = mpsc::channel(1000);
        pack(root, Chunks { sender, buffer: Vec::new() }).unwrap();
        std::iter::from_fn(|| chunks.blocking_recv()).collect()
    }

    fn unpacked(root: &Path, chunks: Vec<Bytes>) -> io::Result<()> {
        let (sender, receiver) = mpsc::channel(1000);
        for chunk in chunks {
            sender.blocking_send(chunk).unwrap();
        }
        drop(sender);
        unpack(root, Reader { chunks: receiver, current: Bytes::new() })
    }

    #[test]
    fn of_two_failures_the_first_cause_is_told() {
        let broke = || io::Error::from(io::ErrorKind::BrokenPipe);
        let unreadable = || io::Error::new(io::ErrorKind::PermissionDenied, "reading secret");
        let tar = || (2, b"tar: Unexpected EOF".to_vec());
        let told = |packed, ended| format!("{:#}", sent(packed, ended).unwrap_err());
        assert!(told(Err(unreadable()), tar()).contains("reading secret"));
        assert!(told(Err(broke()), tar()).contains("Unexpected EOF"));
        assert!(told(Ok(()), tar()).contains("Unexpected EOF"));
        assert!(sent(Err(broke()), (0, Vec::new())).is_err());
        sent(Ok(()), (0, Vec::new())).unwrap();
    }

    #[test]
    fn a_tree_comes_out_as_it_went_in() {
        let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(from.path().join("empty")).unwrap();
        std::fs::create_dir(from.path().join("deep")).unwrap();
        std::fs::write(from.path().join("deep/ü b"), vec![7; 300_000]).unwrap();
        std::os::unix::fs::symlink("deep/ü b", from.path().join("link")).unwrap();
        unpacked(to.path(), packed(from.path())).unwrap();
        assert_eq!(std::fs::read(to.path().join("link")).unwrap(), vec![7; 300_000]);
        assert!(to.path().join("empty").is_dir());
    }

    #[test]
    fn nothing_gets_out_of_the_destination_and_no_special_bit_in() {
        use std::os::unix::fs::PermissionsExt;
        let outside = tempfile::tempdir().unwrap();
        let to = outside.path().join("to");
        std::fs::create_dir(&to).unwrap();
        let mut archive = tar::Builder::new(Vec::new());
        let mut header = |name: &[u8], kind, link: Option<&Path>, mode| {
            let mut header = tar::Header::new_gnu();
            header.as_old_mut().name[..name.len()].copy_from_slice(name);
            header.set_entry_type(kind);
            header.set_size(0);
            header.set_mode(mode);
            if let Some(link) = link {
                header.set_link_name(link).unwrap();
            }
            header.set_cksum();
            archive.append(&header, io::empty()).unwrap();
        };
        header(b"../escaped", tar::EntryType::Regular, None, 0o644);
        header(b"way", tar::EntryType::Symlink, Some(outside.path()), 0o777);
        header(b"root", tar::EntryType::Regular, None, 0o4755);
        header(b"disk", tar::EntryType::Block, None, 0o666);
        header(b"way/escaped", tar::EntryType::Regular, None, 0o644);
        // Refusing the whole archive is as good as leaving out what is bad.
        let _ = unpacked(&to, vec![archive.into_inner().unwrap().into()]);
        assert!(!outside.path().join("escaped").exists());
        assert!(!to.join("disk").exists());
        assert_eq!(std::fs::metadata(to.join("root")).unwrap().permissions().mode() & 0o7000, 0);
    }
}
