//! A stream of server-sent events over a connection of its own.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::wait::PATIENCE;

pub struct EventStream {
    connection: TcpStream,
    text: String,
}

impl EventStream {
    /// Opens it and waits for `ready`: what happens from then on is told.
    pub async fn open(address: SocketAddr, key: &str) -> Self {
        Self::open_with(address, key, "").await
    }

    /// Opens it where another one broke off.
    pub async fn go_on(address: SocketAddr, key: &str, after: i64) -> Self {
        Self::open_with(address, key, &format!("Last-Event-ID: {after}\r\n")).await
    }

    async fn open_with(address: SocketAddr, key: &str, header: &str) -> Self {
        let mut connection = TcpStream::connect(address).await.expect("a replica");
        let head = format!("GET /v1/events HTTP/1.1\r\nHost: {address}\r\nX-API-Key: {key}\r\n{header}\r\n");
        connection.write_all(head.as_bytes()).await.expect("asking for the events");
        let mut stream = Self { connection, text: String::new() };
        stream.wait_for("event: ready").await;
        stream
    }

    /// The id and the data of each event that has come whole.
    pub fn told(&self) -> Vec<(i64, String)> {
        let whole = self.text.replace('\r', "").split("\n\n").map(str::to_owned).collect::<Vec<_>>();
        let field = |event: &str, name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let told =
            whole.iter().filter_map(|event| Some((field(event, "id: ")?.parse().ok()?, field(event, "data: ")?)));
        told.collect()
    }

    /// Reads what still comes after the other end has died.
    pub async fn drain(&mut self) {
        let mut rest = Vec::new();
        let _reset_or_end = tokio::time::timeout(PATIENCE, self.connection.read_to_end(&mut rest)).await;
        self.text.push_str(&String::from_utf8_lossy(&rest));
    }

    /// Reads on until this text has come.
    pub async fn wait_for(&mut self, text: &str) {
        let read = async {
            let mut bytes = [0; 4096];
            while !self.text.contains(text) {
                let count = self.connection.read(&mut bytes).await.expect("the stream goes on");
                assert!(count > 0, "the stream ended before {text:?}: {}", self.text);
                self.text.push_str(&String::from_utf8_lossy(&bytes[..count]));
            }
        };
        let read = tokio::time::timeout(PATIENCE, read).await;
        assert!(read.is_ok(), "waited {PATIENCE:?} in vain for {text:?} in: {}", self.text);
    }
}
