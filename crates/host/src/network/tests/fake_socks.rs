//! A fake SOCKS5 proxy in the lab's internet: small, but what it does is real. It notes who comes and where they want to go.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::sync::{Arc, Mutex};

use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::lab::Namespace;
use crate::network::OwnProxy;

/// Of one connection: user and password, if any were sent, and where to.
pub type Asked = (Option<(String, String)>, SocketAddrV4);

pub struct FakeSocks {
    pub at: SocketAddrV4,
    asked: Arc<Mutex<Vec<Asked>>>,
}

trait Stream: Read + Write + Send {}
impl<S: Read + Write + Send> Stream for S {}

impl FakeSocks {
    /// Listens in `namespace`, and connects from there. With `tls`, that is spoken first.
    pub fn serve(namespace: &Namespace, at: &str, login: Option<(&str, &str)>, tls: Option<Arc<ServerConfig>>) -> Self {
        let at: SocketAddrV4 = at.parse().unwrap();
        let listener = namespace.run(|| TcpListener::bind(at)).unwrap();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let (notes, inside) = (asked.clone(), Arc::new(namespace.0.try_clone().unwrap()));
        let login = login.map(|(user, password)| (user.to_owned(), password.to_owned()));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { return };
                let (notes, inside, login, tls) = (notes.clone(), inside.clone(), login.clone(), tls.clone());
                std::thread::spawn(move || {
                    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
                    rustix::thread::move_into_link_name_space(inside.as_fd(), kind).unwrap();
                    match tls {
                        None => {
                            let mut ours = stream.try_clone().unwrap();
                            if let Some(to) = greet(&mut ours, login.as_ref(), &notes) {
                                pass_on(stream, to);
                            }
                        }
                        Some(config) => {
                            let mut stream = StreamOwned::new(ServerConnection::new(config).unwrap(), stream);
                            if let Some(mut to) = greet(&mut stream, login.as_ref(), &notes) {
                                // The lab's servers speak first: a line is enough to know them by.
                                let _ = stream.write_all(format!("{}\n", super::lab::line(&mut to)).as_bytes());
                                stream.conn.send_close_notify();
                                let _ = stream.flush();
                            }
                        }
                    }
                });
            }
        });
        Self { at, asked }
    }

    /// What has been asked so far.
    pub fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    /// As a policy names it.
    pub fn named(&self) -> OwnProxy {
        OwnProxy { host: self.at.ip().to_string(), port: self.at.port(), login: None, tls: None }
    }
}

fn bytes(stream: &mut dyn Stream, length: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).ok()?;
    Some(bytes)
}

/// The talk until the connection is made: RFC 1928 and RFC 1929, from the proxy's side.
fn greet(stream: &mut dyn Stream, login: Option<&(String, String)>, notes: &Mutex<Vec<Asked>>) -> Option<TcpStream> {
    let text = |stream: &mut dyn Stream| {
        let length = bytes(stream, 1)?[0];
        String::from_utf8(bytes(stream, length.into())?).ok()
    };
    let [5, count] = bytes(stream, 2)?[..] else { return None };
    let offered = bytes(stream, count.into())?;
    let wanted = if login.is_some() { 2 } else { 0 };
    let method = if offered.contains(&wanted) { wanted } else { 0xff };
    stream.write_all(&[5, method]).ok()?;
    let said = match method {
        0 => None,
        2 => {
            bytes(stream, 1)?;
            let said = (text(stream)?, text(stream)?);
            let fits = Some(&said) == login;
            stream.write_all(&[1, u8::from(!fits)]).ok()?;
            if !fits {
                return None;
            }
            Some(said)
        }
        _ => return None,
    };
    let [5, 1, 0, 1] = bytes(stream, 4)?[..] else { return None };
    let address: [u8; 4] = bytes(stream, 4)?.try_into().ok()?;
    let port: [u8; 2] = bytes(stream, 2)?.try_into().ok()?;
    let to = SocketAddrV4::new(Ipv4Addr::from(address), u16::from_be_bytes(port));
    notes.lock().unwrap().push((said, to));
    let connected = TcpStream::connect(to).ok();
    let reply = if connected.is_some() { 0 } else { 5 };
    stream.write_all(&[5, reply, 0, 1, 0, 0, 0, 0, 0, 0]).ok()?;
    connected
}

fn pass_on(one: TcpStream, other: TcpStream) {
    let (mut from, mut to) = (one.try_clone().unwrap(), other.try_clone().unwrap());
    std::thread::spawn(move || {
        let _ = std::io::copy(&mut from, &mut to);
        let _ = to.shutdown(std::net::Shutdown::Write);
    });
    let (mut from, mut to) = (other, one);
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(std::net::Shutdown::Write);
}
