//! Volumes: directories of the host, mounted by this kernel's FUSE, whose requests are passed on to the host and whose
//! answers come back, over a port of their own (`atoll_rpc::volumes`).
//!
//! All of it runs on threads of its own: one reads what the host says, one for each mount ([`mount`]) what the kernel asks.
//! The main thread has no part in it, since it stands still while a program is started, which may lie on a volume. A
//! request is kept until it is answered. When the host's end goes away (an agent is replaced, the machine stood still)
//! whoever asked waits, and the request is sent again in the next talk.

mod mount;
mod place;
mod reader;
mod waiting;

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use atoll_rpc::channel::{Answer, Epoch, Frame, Greeting, Knows, Step, Word, letter};
use atoll_rpc::volumes::{Head, Mounts, PORT, SEAL, seal};

use super::During;
use super::port::{self, Port};
use mount::Mount;
use place::Place;
use reader::Reader;

/// For the host's first word about what is to be mounted.
const PATIENCE: Duration = Duration::from_secs(30);
/// Between two looks for a host that is away.
const HOST_AWAY: Duration = Duration::from_millis(10);
const STACK: usize = 256 << 10;

/// The one of this machine, once there is anything to mount.
static RELAY: Mutex<Option<Arc<Relay>>> = Mutex::new(None);

/// Its port, opened before a machine waits to be told who it is: so a copy of that finds it open, as it does the other one.
static PORT_AHEAD: Mutex<Option<Port>> = Mutex::new(None);

/// Opens the port, and says nothing on it yet.
pub fn open_port() -> io::Result<()> {
    *crate::lock(&PORT_AHEAD) = Some(Port::find(PORT)?);
    Ok(())
}

/// What the threads share.
struct Relay {
    line: Mutex<Line>,
    state: Mutex<State>,
    changed: Condvar,
}

/// The way to the host. Whoever holds it writes a message as a whole.
struct Line {
    port: File,
    /// The talk that goes on.
    talk: Option<Epoch>,
    /// Whether the host takes requests: what was left of the last talk is sent.
    open: bool,
}

impl Line {
    fn write(&mut self, messages: &[Vec<u8>]) -> io::Result<()> {
        messages.iter().try_for_each(|message| self.port.write_all(message))
    }
}

#[derive(Default)]
struct State {
    mounts: Vec<Arc<Mount>>,
    /// The host will say what to mount. Else nobody listens.
    wanted: bool,
    /// The host's list was made so once.
    told: bool,
}

/// Begins at a sandbox's start, and waits for its mounts.
pub fn begin() -> io::Result<()> {
    let relay = running()?;
    let deadline = Instant::now() + PATIENCE;
    let mut state = crate::lock(&relay.state);
    while !state.told {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::Error::new(io::ErrorKind::TimedOut, "the host has not said which volumes to mount"));
        }
        state = relay.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
    }
    Ok(())
}

/// This machine is another sandbox now: with volumes, of which the host will say which, or with none.
pub fn become_another(has_volumes: bool) -> io::Result<()> {
    if has_volumes {
        return running().map(drop);
    }
    let Some(relay) = crate::lock(&RELAY).clone() else { return Ok(()) };
    crate::lock(&relay.state).wanted = false;
    relay.mount(&Mounts::default())
}

fn running() -> io::Result<Arc<Relay>> {
    let mut relay = crate::lock(&RELAY);
    if let Some(relay) = &*relay {
        crate::lock(&relay.state).wanted = true;
        relay.changed.notify_all();
        return Ok(relay.clone());
    }
    let port = crate::lock(&PORT_AHEAD).take().ok_or(io::ErrorKind::NotFound).during("the port of volumes")?;
    let port = port.into_file()?;
    let reader = port.try_clone()?;
    let new = Arc::new(Relay {
        line: Mutex::new(Line { port, talk: None, open: false }),
        state: Mutex::new(State { wanted: true, ..State::default() }),
        changed: Condvar::new(),
    });
    let own = new.clone();
    spawn("volumes", move || own.serve(reader))?;
    *relay = Some(new.clone());
    Ok(new)
}

fn spawn(name: &str, work: impl FnOnce() + Send + 'static) -> io::Result<()> {
    let ordinary = || {
        // Whoever spawns it may go before all others.
        port::be_ordinary();
        work();
    };
    std::thread::Builder::new().name(name.to_owned()).stack_size(STACK).spawn(ordinary).map(drop)
}

impl Relay {
    /// Talk after talk.
    fn serve(self: Arc<Self>, port: File) {
        let mut from = Reader::new(port);
        loop {
            let talk = self.greet(&mut from);
            {
                let mut line = crate::lock(&self.line);
                (line.talk, line.open) = (None, false);
            }
            if let Err(error) = talk {
                eprintln!("atoll-guest: the port of volumes: {error}");
                std::thread::sleep(HOST_AWAY);
            }
        }
    }

    /// One talk, from its greeting to its end.
    fn greet(self: &Arc<Self>, from: &mut Reader) -> io::Result<()> {
        let epoch = self.find_host(from)?;
        let Some(text) = from.letter()? else { return Ok(()) };
        let Ok(mounts) = serde_json::from_slice::<Mounts>(&text) else { return Ok(()) };
        let made = self.mount(&mounts);
        let answer = Answer { error: made.err().map(|error| error.to_string()) };
        self.write(&letter(&serde_json::to_vec(&answer)?))?;
        if answer.error.is_some() {
            return Ok(());
        }
        crate::lock(&self.line).talk = Some(epoch);
        // By another thread: the host may have to be rid of answers before it takes more.
        let own = self.clone();
        spawn("volumes again", move || own.send_again(epoch))?;
        crate::lock(&self.state).told = true;
        self.changed.notify_all();
        self.deliver(from, epoch)
    }

    /// What was left of the last talk, then whatever is asked.
    fn send_again(&self, talk: Epoch) {
        let mounts = crate::lock(&self.state).mounts.clone();
        let mut line = crate::lock(&self.line);
        if line.talk != Some(talk) {
            return;
        }
        line.open = mounts.iter().all(|mount| line.write(&mount.again()).is_ok());
    }

    /// Until host and guest are in step.
    fn find_host(&self, from: &mut Reader) -> io::Result<Epoch> {
        let mut greeting = Greeting::default();
        greeting.push(&from.take_all());
        loop {
            match greeting.step() {
                Step::Answer(epoch) => self.write(&Frame { word: Word::Ack(Knows::Itself), epoch }.encode())?,
                Step::Begin(epoch) => {
                    self.write(&Frame { word: Word::Go, epoch }.encode())?;
                    from.give(greeting.rest());
                    return Ok(epoch);
                }
                Step::Read => {
                    if !from.more()? {
                        self.wait_until_wanted();
                        std::thread::sleep(HOST_AWAY);
                    }
                    greeting.push(&from.take_all());
                }
            }
        }
    }

    fn wait_until_wanted(&self) {
        let mut state = crate::lock(&self.state);
        while !state.wanted {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn write(&self, bytes: &[u8]) -> io::Result<()> {
        crate::lock(&self.line).port.write_all(bytes)
    }

    /// Has exactly this mounted, or less when that fails.
    fn mount(self: &Arc<Self>, wanted: &Mounts) -> io::Result<()> {
        let mut state = crate::lock(&self.state);
        // Those of the sandbox that this machine was go first: another may come to the same place.
        state.mounts.retain(|mount| {
            let stays = wanted.mounts.contains(&mount.wish);
            if !stays {
                mount.end();
            }
            stays
        });
        let new: Vec<_> = wanted.mounts.iter().filter(|wish| state.mounts.iter().all(|it| it.wish != **wish)).collect();
        // All before the first is mounted: a way through a volume would be asked of this very thread.
        let mut taken: Vec<_> = state.mounts.iter().map(|mount| mount.path.clone()).collect();
        let mut places = Vec::new();
        for wish in &new {
            let place = Place::find(&wish.path, !state.mounts.is_empty(), &taken).during(&wish.path)?;
            taken.push(place.path.clone());
            places.push(place);
        }
        for (wish, place) in new.into_iter().zip(places) {
            let mount = Mount::make(wish, place).during(&format!("mounting a volume at {}", wish.path))?;
            if let Err(error) = self.start(&mount) {
                mount.end();
                return Err(error).during(&format!("serving a volume at {}", wish.path));
            }
            state.mounts.push(mount);
        }
        let place = |mount: &Arc<Mount>| wanted.mounts.iter().position(|wish| mount.wish == *wish);
        state.mounts.sort_by_key(place);
        for (number, mount) in state.mounts.iter().enumerate() {
            mount.take_number(number);
        }
        Ok(())
    }

    fn start(self: &Arc<Self>, mount: &Arc<Mount>) -> io::Result<()> {
        let kernel = mount.kernel()?;
        let (relay, mount) = (self.clone(), mount.clone());
        spawn("volume", move || mount.serve(&kernel, &relay))
    }

    /// Takes answers to whom they are for, until something comes that is none.
    fn deliver(&self, from: &mut Reader, epoch: Epoch) -> io::Result<()> {
        let mounts = crate::lock(&self.state).mounts.clone();
        loop {
            if !from.fill(Head::BYTES)? {
                return Ok(());
            }
            // What is no head stays: a greeting may begin there.
            let head = from.have().first_chunk().and_then(|bytes| Head::decode(*bytes, mounts.len()));
            let Some(head) = head else { return Ok(()) };
            let whole = Head::BYTES + head.length + SEAL;
            if !from.fill(whole)? {
                return Ok(());
            }
            let (answer, sealed) = from.have()[Head::BYTES..whole].split_at(head.length);
            if *sealed != seal(epoch) {
                return Ok(());
            }
            if let Some(mount) = mounts.get(head.mount) {
                mount.answer(answer);
            }
            from.skip(whole);
        }
    }
}
