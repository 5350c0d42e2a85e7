//! A real load balancer (HAProxy) in front of replicas of control: each request goes to the next one, also when it comes
//! over a connection that is kept alive, so nothing may depend on being asked twice.

use std::fmt::Write;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// Ends with this value.
pub struct Balancer {
    child: Child,
    address: SocketAddr,
}

const SETTINGS: &str = "\
defaults
    mode http
    balance roundrobin
    retries 0
    timeout connect 10s
    timeout client 1h
    timeout server 1h
    timeout tunnel 1h
";

impl Balancer {
    /// In front of `replicas`, on a free port of this machine. Its settings are kept in `dir`.
    pub fn start(dir: &Path, replicas: &[String]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("its address");
        // HAProxy inherits the socket, so nobody can take the port meanwhile.
        // SAFETY: fcntl on a descriptor that we own; it only clears its close-on-exec flag.
        unsafe { libc::fcntl(listener.as_raw_fd(), libc::F_SETFD, 0) };
        let mut settings = format!("{SETTINGS}listen control\n    bind fd@{}\n", listener.as_raw_fd());
        for (number, replica) in replicas.iter().enumerate() {
            writeln!(settings, "    server replica{number} {replica}").expect("a string takes it");
        }
        let path = dir.join("haproxy.cfg");
        std::fs::write(&path, settings).expect("HAProxy's settings");
        let mut command = Command::new("haproxy");
        command.arg("-db").arg("-f").arg(&path).stdin(Stdio::null()).stdout(Stdio::null());
        let child = command.spawn().expect("haproxy (apt-get install haproxy)");
        Self { child, address }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
