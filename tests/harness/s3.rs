//! A bucket: moto's server, which speaks S3, on all addresses of this machine.

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use crate::wait::until;

/// The bucket is named `images` and empty. Ends with this value.
pub struct S3 {
    server: Child,
    pub port: u16,
}

impl Drop for S3 {
    fn drop(&mut self) {
        let _ended_already = self.server.kill();
        let _reaped = self.server.wait();
    }
}

impl S3 {
    pub async fn start() -> Self {
        let program = std::env::var("ATOLL_TEST_MOTO")
            .expect("ATOLL_TEST_MOTO must name moto_server; scripts/test.sh installs it");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a free port").port();
        let server = Command::new(program)
            .args(["-H", "0.0.0.0", "-p", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("starting moto_server");
        let this = Self { server, port };
        until("the bucket", || async { (this.curl(&["-X", "PUT"], "images").0).then_some(()) }).await;
        this
    }

    /// The names of all objects.
    pub fn list(&self) -> Vec<String> {
        let (_, text) = self.curl(&[], "images?list-type=2");
        let keys = text.split("<Key>").skip(1);
        keys.filter_map(|rest| rest.split_once("</Key>").map(|(key, _)| key.to_owned())).collect()
    }

    fn curl(&self, args: &[&str], path: &str) -> (bool, String) {
        let url = format!("http://127.0.0.1:{}/{path}", self.port);
        let output = Command::new("curl").args(["-fsS", &url]).args(args).output().expect("curl");
        (output.status.success(), String::from_utf8_lossy(&output.stdout).into_owned())
    }
}
