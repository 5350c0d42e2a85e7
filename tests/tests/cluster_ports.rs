//! What a cluster promises of WebSockets to what listens in a sandbox: through any replica, to any host, behind NAT too,
//! by the sandbox's own host name and by headers.

use std::net::SocketAddr;

use atoll_client::command;
use atoll_model::{HostStatus, SandboxId};
use atoll_tests::cluster::{Cluster, Reach};
use atoll_tests::until;
use secrecy::ExposeSecret;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;

/// A server that answers every message with the same one, and says which path was asked for.
const ECHO: &str = r#"
import base64, hashlib, socketserver
class Echo(socketserver.StreamRequestHandler):
    def frame(self):
        head = self.rfile.read(2)
        if len(head) < 2: return None, b''
        length = head[1] & 127
        if length == 126: length = int.from_bytes(self.rfile.read(2), 'big')
        if length == 127: length = int.from_bytes(self.rfile.read(8), 'big')
        mask = self.rfile.read(4)
        data = self.rfile.read(length)
        return head[0] & 15, bytes(b ^ mask[i % 4] for i, b in enumerate(data))
    def send(self, kind, data):
        size = len(data)
        length = bytes([size]) if size < 126 else bytes([126]) + size.to_bytes(2, 'big')
        self.wfile.write(bytes([128 | kind]) + length + data)
    def handle(self):
        first = self.rfile.readline().decode()
        headers = {}
        while (line := self.rfile.readline().decode().strip()):
            name, value = line.split(':', 1)
            headers[name.lower()] = value.strip()
        key = headers['sec-websocket-key'] + '258EAFA5-E914-47DA-95CA-C5AB0DC85B11'
        accept = base64.b64encode(hashlib.sha1(key.encode()).digest()).decode()
        self.wfile.write(('HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n'
            'Sec-WebSocket-Accept: ' + accept + '\r\n\r\n').encode())
        self.send(1, first.split(' ')[1].encode())
        while True:
            kind, data = self.frame()
            if kind is None: return
            self.send(kind, data)
            if kind == 8: return
class Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True
Server(('0.0.0.0', 8765), Echo).serve_forever()
"#;

/// A WebSocket over plain HTTP/1.1: as much of one as the test needs.
struct Socket(BufReader<TcpStream>);

impl Socket {
    /// Opens it with these further header lines; the status when it is not 101.
    async fn open(to: SocketAddr, headers: &str) -> Result<Self, String> {
        let stream = TcpStream::connect(to).await.map_err(|error| error.to_string())?;
        let mut stream = BufReader::new(stream);
        let request = format!(
            "GET /chat?room=1 HTTP/1.1\r\n{headers}Connection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
        let (mut head, mut line) = (String::new(), String::new());
        while line != "\r\n" {
            line.clear();
            if stream.read_line(&mut line).await.map_err(|error| error.to_string())? == 0 {
                break;
            }
            head.push_str(&line);
        }
        let accepted = head.starts_with("HTTP/1.1 101 ") && head.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        if accepted { Ok(Self(stream)) } else { Err(head) }
    }

    async fn send(&mut self, kind: u8, data: &[u8]) {
        let mut frame = vec![0x80 | kind];
        match u8::try_from(data.len()).ok().filter(|length| *length < 126) {
            Some(length) => frame.push(0x80 | length),
            None => {
                frame.push(0x80 | 126);
                frame.extend(u16::try_from(data.len()).expect("a short message").to_be_bytes());
            }
        }
        let mask = [1, 2, 3, 4];
        frame.extend(mask);
        frame.extend(data.iter().enumerate().map(|(index, byte)| byte ^ mask[index % 4]));
        self.0.write_all(&frame).await.expect("sending a frame");
    }

    async fn next(&mut self) -> (u8, Vec<u8>) {
        let mut head = [0; 2];
        self.0.read_exact(&mut head).await.expect("a frame");
        let length = match head[1] {
            126 => self.0.read_u16().await.expect("its length").into(),
            length => usize::from(length),
        };
        let mut data = vec![0; length];
        self.0.read_exact(&mut data).await.expect("its payload");
        (head[0] & 15, data)
    }

    /// Messages of several sizes come back, and the end is an orderly one.
    async fn converse(mut self) {
        assert_eq!(self.next().await, (1, b"/chat?room=1".to_vec()));
        for size in [0, 1, 125, 126, 40_000] {
            let message = vec![b'x'; size];
            self.send(2, &message).await;
            assert_eq!(self.next().await, (2, message));
        }
        self.send(8, &1000_u16.to_be_bytes()).await;
        assert_eq!(self.next().await, (8, 1000_u16.to_be_bytes().to_vec()));
        assert_eq!(self.0.read(&mut [0]).await.expect("the end of the stream"), 0);
    }
}

async fn serve(cluster: &Cluster, id: &SandboxId) {
    cluster.client.write_file_bytes(id, "/tmp/echo.py", ECHO.as_bytes()).await.expect("a file");
    cluster.client.exec_background(id, &command("/usr/bin/python3", ["/tmp/echo.py"])).await.expect("a server");
}

#[tokio::test]
async fn a_websocket_reaches_a_port_through_any_replica_on_any_host_by_name_and_by_header() {
    let mut cluster = Cluster::without_hosts(2).await;
    let hosts = [cluster.add_host(Reach::Address).await, cluster.add_host(Reach::Tunnel).await];
    for host in hosts {
        cluster.wait_host(host, HostStatus::Online).await;
        let id = cluster.sandbox_on(host).await;
        serve(&cluster, &id).await;
        let key = cluster.key.expose_secret().to_owned();
        let by_name = format!("Host: 8765-{}.localhost\r\n", id.dns_label());
        let by_header = format!("Host: localhost\r\nE2b-Sandbox-Id: {}\r\nE2b-Sandbox-Port: 8765\r\n", id.dns_label());
        for replica in 0..2 {
            let control = cluster.control_address(replica);
            for way in [&by_name, &by_header] {
                let welcome = format!("{way}X-API-Key: {key}\r\n");
                let open = || async { Socket::open(control, &welcome).await.ok() };
                let socket = until(&format!("a WebSocket by {way:?} at replica {replica}"), open).await;
                socket.converse().await;
                let refused = Socket::open(control, way).await.err().expect("nobody gets in without a key");
                assert!(refused.starts_with("HTTP/1.1 403 "), "{refused}");
            }
        }
    }
}
