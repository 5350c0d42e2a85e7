//! The volumes of a machine: what its kernel asks about them, answered on a few threads of the machine's own.
//!
//! [`Volumes`] is a task of the agent, as the bridge is: it greets the guest on the port of volumes, says what to mount, and
//! has threads answer what comes ([`crate::volume_fuse`]). When the talk breaks it begins another one, after the last
//! thread of the former has ended: so nothing that was asked in one talk is carried out during the next. The threads
//! take turns at reading: as many requests of a machine are under way as it has threads, and the rest waits in the guest.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::Duration;

use atoll_model::SandboxId;
use atoll_rpc::channel::Epoch;
use atoll_rpc::volumes::{Head, INSISTENCE, MOST_MESSAGE, Mount, Mounts, seal};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::channel::{ANSWERED, Met};
use crate::driver::SharedVolume;
use crate::volume_fuse::{SHORTEST, Server, begin_thread};

/// Requests of one machine that are under way at once.
const THREADS: usize = 4;
const STACK: usize = 256 << 10;
const FIRST_WAIT: Duration = Duration::from_millis(50);
const LONGEST_WAIT: Duration = Duration::from_secs(5);
/// For a guest that may be frozen, and is greeted again for ever.
const AGAIN: Duration = Duration::from_secs(20);
/// For threads that are in the middle of something when a machine is taken away: a write to a slow disk at most.
const END: Duration = Duration::from_secs(10);

/// A machine's volumes are served for as long as this is held.
pub(super) struct Volumes {
    stop: CancellationToken,
    told: watch::Receiver<Told>,
    /// Closed when the last thread has ended.
    ended: Mutex<std_mpsc::Receiver<()>>,
}

/// What the guest has said to the list.
#[derive(Debug, Clone, Default)]
enum Told {
    #[default]
    Nothing,
    Mounted,
    Refused(String),
}

impl Drop for Volumes {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Volumes {
    /// Begins, inside a runtime. None where there are none.
    pub fn start(port: PathBuf, sandbox: &SandboxId, volumes: &[SharedVolume]) -> Option<Self> {
        if volumes.is_empty() {
            return None;
        }
        let mount = |volume: &SharedVolume| Mount {
            volume: volume.id.to_string(),
            path: volume.path.clone(),
            read_only: volume.read_only,
        };
        let mounts = Mounts { mounts: volumes.iter().map(mount).collect() };
        let stop = CancellationToken::new();
        let (tell, told) = watch::channel(Told::Nothing);
        let (ends, ended) = std_mpsc::channel();
        let (stopped, sandbox, volumes) = (stop.clone(), sandbox.clone(), volumes.to_vec());
        tokio::spawn(async move {
            let _until_the_end: std_mpsc::Sender<()> = ends;
            if let Some(servers) = open(&sandbox, volumes, &stopped, &tell).await {
                serve(&port, &mounts, &servers, &stopped, &tell).await;
            }
        });
        Some(Self { stop, told, ended: Mutex::new(ended) })
    }

    /// Waits until the guest has mounted them.
    pub fn mounted(&self) -> impl Future<Output = io::Result<()>> + Send + use<> {
        let mut told = self.told.clone();
        async move {
            let said = told.wait_for(|told| !matches!(told, Told::Nothing)).await.map_err(io::Error::other)?;
            match &*said {
                Told::Refused(why) => Err(io::Error::new(ANSWERED, why.clone())),
                _ => Ok(()),
            }
        }
    }

    /// Ends it, and waits until nothing is under way any more. Blocks.
    pub fn end(self) {
        self.stop.cancel();
        if let Err(std_mpsc::RecvTimeoutError::Timeout) = lock(&self.ended).recv_timeout(END) {
            tracing::warn!("a request for a volume of a machine that is gone takes very long");
        }
    }
}

/// Opens the volumes. Whoever waits is told when that fails, and it is tried again: under a machine that runs, its
/// programs wait for it. None when it is to end.
async fn open(
    sandbox: &SandboxId,
    volumes: Vec<SharedVolume>,
    stop: &CancellationToken,
    tell: &watch::Sender<Told>,
) -> Option<Arc<[Server]>> {
    let volumes = Arc::new(volumes);
    let mut wait = FIRST_WAIT;
    while !stop.is_cancelled() {
        let (volumes, id) = (volumes.clone(), sandbox.clone());
        let opening = tokio::task::spawn_blocking(move || {
            let server = |volume: &SharedVolume| Server::open(&volume.source, &id, volume.read_only, volume.bytes);
            volumes.iter().map(server).collect::<io::Result<_>>()
        });
        match opening.await.map_err(io::Error::other).flatten() {
            Ok(servers) => return Some(servers),
            Err(error) => {
                tracing::error!(%sandbox, %error, "the volumes of a machine can't be opened");
                tell.send_replace(Told::Refused(format!("opening volumes: {error}")));
            }
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
            () = stop.cancelled() => {}
        }
    }
    None
}

async fn serve(
    port: &Path,
    mounts: &Mounts,
    servers: &Arc<[Server]>,
    stop: &CancellationToken,
    tell: &watch::Sender<Told>,
) {
    let mut wait = FIRST_WAIT;
    loop {
        let greeting = async { Met::at(port, INSISTENCE).await?.tell(mounts).await };
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(AGAIN, greeting) => greeted,
            () = stop.cancelled() => return,
        };
        match greeted {
            Ok(Ok((stream, epoch))) => {
                wait = FIRST_WAIT;
                tell.send_replace(Told::Mounted);
                match stream.into_std().and_then(|stream| talk(stream, epoch, servers)) {
                    Ok((over, mut threads)) => {
                        tokio::select! {
                            _nobody = threads.recv() => {}
                            () = stop.cancelled() => {}
                        }
                        drop(over);
                        let _nobody = threads.recv().await;
                    }
                    Err(error) => tracing::error!(%error, "the volumes of a machine can't be served"),
                }
            }
            Ok(Err(error)) => {
                let first = matches!(*tell.borrow(), Told::Nothing);
                if first && error.to_string().starts_with("the guest: ") {
                    tell.send_replace(Told::Refused(error.to_string()));
                }
            }
            Err(_) => {}
        }
        tokio::select! {
            () = tokio::time::sleep(wait) => wait = (wait * 2).min(LONGEST_WAIT),
            () = stop.cancelled() => return,
        }
    }
}

/// One talk: what its threads share.
struct Talk {
    reader: Mutex<UnixStream>,
    writer: Mutex<UnixStream>,
    epoch: Epoch,
    servers: Arc<[Server]>,
}

/// Starts the threads of a talk, which end when it is over: as many as there can be, or it fails. Nothing ever comes from
/// them: the channel is closed then.
fn talk(stream: UnixStream, epoch: Epoch, servers: &Arc<[Server]>) -> io::Result<(Over, mpsc::Receiver<()>)> {
    stream.set_nonblocking(false)?;
    let talk = Talk {
        reader: Mutex::new(stream.try_clone()?),
        writer: Mutex::new(stream.try_clone()?),
        epoch,
        servers: servers.clone(),
    };
    let talk = Arc::new(talk);
    let over = Over(stream.try_clone()?);
    let (alive, threads) = mpsc::channel::<()>(1);
    for number in 0..THREADS {
        // However one ends, the others do too.
        let begin = stream.try_clone().map(Over).and_then(|over| {
            let (talk, alive) = (talk.clone(), alive.clone());
            std::thread::Builder::new().name("volume".to_owned()).stack_size(STACK).spawn(move || {
                let (_alive, _over) = (alive, over);
                if let Err(error) = begin_thread().and_then(|()| talk.work()) {
                    tracing::debug!(%error, "a talk about volumes has ended");
                }
            })
        });
        match begin {
            Ok(_) => {}
            Err(error) if number == 0 => return Err(error),
            // Those that there are do all of it.
            Err(error) => {
                tracing::warn!(%error, "the volumes of a machine have fewer threads than they should");
                break;
            }
        }
    }
    Ok((over, threads))
}

/// Ends a talk when it goes.
struct Over(UnixStream);

impl Drop for Over {
    fn drop(&mut self) {
        let _over_already = self.0.shutdown(Shutdown::Both);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Talk {
    /// Request after request, until the stream ends or makes no sense.
    fn work(&self) -> io::Result<()> {
        let (mut request, mut message) = (Vec::new(), Vec::new());
        loop {
            let mount = self.next(&mut request)?;
            message.clear();
            message.extend([0; Head::BYTES]);
            self.servers[mount].answer(&request, &mut message).map_err(io::Error::other)?;
            let length = message.len() - Head::BYTES;
            if length > MOST_MESSAGE {
                return Err(io::Error::other("an answer is too long"));
            }
            message[..Head::BYTES].copy_from_slice(&Head { length, mount }.encode());
            message.extend(seal(self.epoch));
            lock(&self.writer).write_all(&message)?;
        }
    }

    /// The next request, and for which mount. That something is forgotten is carried out before others are read.
    fn next(&self, request: &mut Vec<u8>) -> io::Result<usize> {
        let mut reader = lock(&self.reader);
        let mut head = [0; Head::BYTES];
        reader.read_exact(&mut head)?;
        let head = Head::decode(head, self.servers.len()).filter(|head| head.length >= SHORTEST);
        let head = head.ok_or_else(|| io::Error::other("the guest's message makes no sense"))?;
        request.resize(head.length, 0);
        reader.read_exact(request)?;
        if Server::is_forgetting(request) {
            self.servers[head.mount].forget(request);
        }
        Ok(head.mount)
    }
}
