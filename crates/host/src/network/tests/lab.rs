//! A little world of network namespaces: a host, an internet behind it, and sandboxes. All of it vanishes with the
//! descriptors that hold it, however a test ends.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, AsRawFd};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::instance::Instance;
use crate::network::{Network, NetworkConfig, Policy};
use crate::slots::{Slot, Slots, SlotsConfig};

/// Long enough for anything that works; what doesn't is refused at once, or meets this.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A network namespace.
pub struct Namespace(pub File);

impl Namespace {
    pub fn new() -> Self {
        let make = || {
            // SAFETY: only this thread moves, and it ends right after.
            unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        Self(std::thread::spawn(make).join().unwrap())
    }

    /// Does something in the namespace, in a thread of its own.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        std::thread::scope(|scope| {
            let inside = || {
                let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                rustix::thread::move_into_link_name_space(self.0.as_fd(), kind).unwrap();
                work()
            };
            match scope.spawn(inside).join() {
                Ok(result) => result,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        })
    }

    pub fn ip(&self, arguments: &str) {
        let output = self.run(|| Command::new("ip").args(arguments.split(' ')).output().unwrap());
        assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
    }

    pub fn path(&self) -> String {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd())
    }

    /// Whether a TCP connection to the address comes about.
    pub fn reaches(&self, address: &str) -> bool {
        self.connect(address).is_ok()
    }

    pub fn connect(&self, address: &str) -> std::io::Result<TcpStream> {
        let address: SocketAddr = address.parse().unwrap();
        let stream = self.run(|| TcpStream::connect_timeout(&address, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(stream)
    }

    /// Serves a port on all addresses: tells each client who it is, then echoes.
    pub fn serve(&self, port: u16) {
        let listener = self.run(|| TcpListener::bind(("::", port)).or_else(|_| TcpListener::bind(("0.0.0.0", port))));
        let listener = listener.unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                std::thread::spawn(move || {
                    let peer = stream.peer_addr().unwrap().ip().to_canonical();
                    let _ = writeln!(stream, "{peer}");
                    let mut byte = [0];
                    while matches!(stream.read(&mut byte), Ok(1)) && stream.write_all(&byte).is_ok() {}
                });
            }
        });
    }

    /// Echoes by UDP, one datagram at a time. At one address: an answer must come from where the question went.
    pub fn serve_udp(&self, address: &str, port: u16) {
        let socket = self.run(|| UdpSocket::bind((address, port))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((length, source)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(&buffer[..length], source);
            }
        });
    }
}

/// The first line that a server says.
pub fn line(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    let mut byte = [0];
    while stream.read(&mut byte).unwrap() == 1 && byte[0] != b'\n' {
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

/// Whether the echo of an open connection still comes.
pub fn echoes(stream: &mut TcpStream) -> bool {
    stream.write_all(b"x").is_ok() && matches!(stream.read(&mut [0]), Ok(1))
}

/// The host at 192.0.2.2, and the internet at 192.0.2.1 with an address of each kind that matters.
pub struct Lab {
    pub host: Namespace,
    pub internet: Namespace,
    pub dir: tempfile::TempDir,
    pub config: NetworkConfig,
}

pub const PUBLIC: &str = "203.0.113.7";
pub const CLOSED: [&str; 9] = [
    "10.5.0.1",
    "100.64.0.9",
    "169.254.169.254",
    "168.63.129.16",
    "172.16.0.1",
    "192.168.7.1",
    "192.0.0.192",
    "198.19.0.1",
    "240.0.0.1",
];

impl Lab {
    pub fn new() -> Self {
        let (host, internet) = (Namespace::new(), Namespace::new());
        host.ip("link set lo up");
        internet.ip("link set lo up");
        host.ip(&format!("link add up0 mtu 1400 type veth peer name net0 mtu 1400 netns {}", internet.path()));
        host.ip("addr add 192.0.2.2/24 dev up0");
        host.ip("link set up0 up");
        internet.ip("addr add 192.0.2.1/24 dev net0");
        internet.ip("link set net0 up");
        host.ip("route add default via 192.0.2.1");
        for address in CLOSED.iter().chain(&[PUBLIC]) {
            internet.ip(&format!("addr add {address}/32 dev lo"));
        }
        // Whoever out there knows where sandboxes live.
        internet.ip("route add 198.18.0.0/16 via 192.0.2.2");
        internet.serve(80);
        let dir = tempfile::tempdir().unwrap();
        let resolv_conf = dir.path().join("resolv.conf");
        std::fs::write(&resolv_conf, "nameserver 192.0.2.1\n").unwrap();
        let config = NetworkConfig { resolv_conf, ..NetworkConfig::default() };
        Self { host, internet, dir, config }
    }

    pub fn instance(&self) -> Instance {
        Instance::open(&self.dir.path().join("data")).unwrap()
    }

    pub fn slots(&self, in_use: &[Slot]) -> Slots {
        let config = SlotsConfig { claims_dir: self.dir.path().join("blocks"), ..SlotsConfig::default() };
        Slots::open(&self.instance(), config, in_use).unwrap()
    }

    /// Starts an agent's network on the host.
    pub fn start(&self) -> Agent<'_> {
        self.restart(self.slots(&[]), &[])
    }

    pub fn restart(&self, slots: Slots, denied: &[Slot]) -> Agent<'_> {
        let closed = Policy { closed: true, ..Policy::default() };
        let denied: Vec<_> = denied.iter().map(|slot| (*slot, closed.clone())).collect();
        self.restart_with(slots, &denied)
    }

    pub fn restart_with(&self, slots: Slots, ruled: &[(Slot, Policy)]) -> Agent<'_> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .on_thread_start({
                let host = Arc::new(self.host.0.try_clone().unwrap());
                move || {
                    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                    rustix::thread::move_into_link_name_space(host.as_fd(), kind).unwrap();
                }
            })
            .enable_all()
            .build()
            .unwrap();
        let start = || runtime.block_on(Network::start(&self.instance(), self.config.clone(), &slots, ruled));
        let network = self.host.run(start).unwrap();
        Agent { lab: self, slots, network, runtime }
    }
}

/// An agent that runs; dropping it is what a crash does.
pub struct Agent<'a> {
    pub lab: &'a Lab,
    pub slots: Slots,
    pub network: Network,
    pub runtime: tokio::runtime::Runtime,
}

/// A sandbox, as far as the network is concerned.
pub struct Sandbox {
    pub namespace: Namespace,
    pub slot: Slot,
}

impl Agent<'_> {
    pub fn sandbox(&self) -> Sandbox {
        let sandbox = Sandbox { namespace: Namespace::new(), slot: self.slots.take().unwrap() };
        self.attach(&sandbox).unwrap();
        sandbox
    }

    pub fn attach(&self, sandbox: &Sandbox) -> std::io::Result<()> {
        self.lab.host.run(|| self.network.attach(sandbox.slot, sandbox.namespace.0.as_fd()))
    }

    pub fn deny(&self, sandbox: &Sandbox, denied: bool) {
        self.lab.host.run(|| self.network.set_egress_denied(sandbox.slot, denied)).unwrap();
    }

    pub fn detach(&self, slot: Slot) {
        self.lab.host.run(|| self.network.detach(slot)).unwrap();
    }

    pub fn shutdown(&self, sandboxes_left: bool) {
        self.lab.host.run(|| self.runtime.block_on(self.network.shutdown(sandboxes_left))).unwrap();
    }

    pub fn leftovers(&self) -> Vec<String> {
        self.lab.host.run(|| self.network.leftovers()).unwrap()
    }
}
