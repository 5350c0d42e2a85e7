//! A registry for tests: it serves what it is given over loopback, speaks as much of the distribution protocol as pulling
//! takes, and wants a token from who asks. It stands in for registries on the internet, which tests can't reach.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};

/// Ends with the test's process.
pub struct Registry {
    address: SocketAddr,
    content: Arc<Mutex<Content>>,
}

#[derive(Default)]
struct Content {
    /// Manifests by tag or digest, blobs by digest.
    manifests: HashMap<String, Vec<u8>>,
    blobs: HashMap<String, Vec<u8>>,
    requests: Vec<String>,
}

pub const USER: &str = "puller";
pub const PASSWORD: &str = "secret";

fn digest(bytes: &[u8]) -> String {
    let mut child = Command::new("sha256sum")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("sha256sum");
    child.stdin.take().expect("stdin").write_all(bytes).expect("sha256sum reads");
    let output = child.wait_with_output().expect("sha256sum ends");
    format!("sha256:{}", String::from_utf8_lossy(&output.stdout).split(' ').next().expect("a digest"))
}

impl Registry {
    pub fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let content = Arc::<Mutex<Content>>::default();
        let shared = content.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let shared = shared.clone();
                std::thread::spawn(move || serve(stream, address, &shared));
            }
        });
        Self { address, content }
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// What was asked for so far.
    pub fn requests(&self) -> Vec<String> {
        self.content.lock().expect("content").requests.clone()
    }

    /// Puts an image there: each layer is a tar archive, gzipped here.
    pub fn push(&self, tag: &str, layers: &[Vec<u8>], settings: &str) {
        let (blobs, manifest) = image(layers, settings);
        let mut content = self.content.lock().expect("content");
        content.blobs.extend(blobs);
        content.manifests.insert(tag.to_owned(), manifest.into_bytes());
    }

    /// Spoils every layer, as a registry that was broken into would.
    pub fn spoil(&self) {
        let mut content = self.content.lock().expect("content");
        for blob in content.blobs.values_mut().filter(|blob| blob.starts_with(&[0x1f, 0x8b])) {
            if let Some(last) = blob.last_mut() {
                *last ^= 1;
            }
        }
    }
}

/// An image's blobs by their digests, and its manifest.
fn image(layers: &[Vec<u8>], settings: &str) -> (HashMap<String, Vec<u8>>, String) {
    let (mut blobs, mut diff_ids, mut descriptors) = (HashMap::new(), Vec::new(), Vec::new());
    for layer in layers {
        diff_ids.push(format!("\"{}\"", digest(layer)));
        let packed = gzip(layer);
        let name = digest(&packed);
        descriptors.push(format!(
            r#"{{"mediaType":"application/vnd.oci.image.layer.v1.tar+gzip","digest":"{name}","size":{}}}"#,
            packed.len()
        ));
        blobs.insert(name, packed);
    }
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{settings},"rootfs":{{"type":"layers","diff_ids":[{}]}}}}"#,
        diff_ids.join(",")
    );
    let name = digest(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{name}","size":{}}},"layers":[{}]}}"#,
        config.len(),
        descriptors.join(",")
    );
    blobs.insert(name, config.into_bytes());
    (blobs, manifest)
}

/// The same in OCI's layout of a directory, with the tag `1`.
pub fn write_layout(directory: &Path, layers: &[Vec<u8>], settings: &str) {
    let (mut blobs, manifest) = image(layers, settings);
    let name = digest(manifest.as_bytes());
    let index = format!(
        r#"{{"schemaVersion":2,"manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{name}","size":{},"annotations":{{"org.opencontainers.image.ref.name":"1"}}}}]}}"#,
        manifest.len()
    );
    blobs.insert(name, manifest.into_bytes());
    let folder = directory.join("blobs/sha256");
    std::fs::create_dir_all(&folder).expect("a directory");
    for (name, content) in blobs {
        std::fs::write(folder.join(name.trim_start_matches("sha256:")), content).expect("a blob");
    }
    std::fs::write(directory.join("index.json"), index).expect("an index");
    std::fs::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).expect("a layout");
}

fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut child = Command::new("gzip")
        .arg("-c")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("gzip");
    let mut stdin = child.stdin.take().expect("stdin");
    let input = bytes.to_vec();
    let feeding = std::thread::spawn(move || stdin.write_all(&input));
    let output = child.wait_with_output().expect("gzip ends");
    feeding.join().expect("feeding").expect("gzip reads");
    output.stdout
}

fn serve(stream: TcpStream, address: SocketAddr, shared: &Mutex<Content>) {
    let mut reader = BufReader::new(stream.try_clone().expect("a second handle"));
    let mut head = String::new();
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap_or(0) == 0 || line == "\r\n" {
            break;
        }
        head.push_str(&line);
    }
    let path = head.split(' ').nth(1).unwrap_or_default().to_owned();
    let authorization = head.lines().find_map(|line| {
        line.to_ascii_lowercase().starts_with("authorization: ").then(|| line[15..].trim().to_owned())
    });
    let mut content = shared.lock().expect("content");
    content.requests.push(path.clone());
    let (status, extra, body) = if path.starts_with("/token") {
        // "puller:secret"
        match authorization.as_deref() {
            Some("Basic cHVsbGVyOnNlY3JldA==") => ("200 OK", String::new(), br#"{"token":"good"}"#.to_vec()),
            _ => ("401 Unauthorized", String::new(), Vec::new()),
        }
    } else if authorization.as_deref() != Some("Bearer good") {
        let challenge =
            format!("WWW-Authenticate: Bearer realm=\"http://{address}/token\",service=\"test\",scope=\"pull\"\r\n");
        ("401 Unauthorized", challenge, Vec::new())
    } else {
        let name = path.rsplit('/').next().unwrap_or_default();
        let found = if path.contains("/manifests/") { content.manifests.get(name) } else { content.blobs.get(name) };
        match found {
            Some(bytes) => ("200 OK", String::new(), bytes.clone()),
            None => ("404 Not Found", String::new(), Vec::new()),
        }
    };
    drop(content);
    let mut stream = stream;
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\n{extra}Content-Length: {}\r\n\r\n", body.len());
    let _ = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&body));
}

/// A tar archive of what a script makes in an empty directory.
pub fn archive(scratch: &Path, script: &str) -> Vec<u8> {
    let directory = tempfile::tempdir_in(scratch).expect("directory");
    let made = Command::new("sh").args(["-ec", script]).current_dir(directory.path()).status().expect("sh");
    assert!(made.success(), "{script}");
    let packed =
        Command::new("tar").args(["-c", "--numeric-owner", "-f", "-", "."]).current_dir(directory.path()).output();
    packed.expect("tar").stdout
}

/// The smallest root file system that programs run in: a shell and a few tools of this machine, with their libraries.
pub const ROOT: &str = "
for program in dash cat ls id mkdir rm touch env sleep chown cp mktemp tar dirname grep; do
    path=$(command -v $program); mkdir -p bin; cp -L \"$path\" bin/$program
    for library in $(ldd \"$path\" | grep -o '/[^ ]*'); do
        mkdir -p \".$(dirname $library)\"; cp -nL $library .$library
    done
done
ln -s dash bin/sh
mkdir -p etc root tmp srv; chmod 1777 tmp
echo 'root:x:0:0::/root:/bin/sh' > etc/passwd
echo 'worker:x:4000:4000::/srv:/bin/sh' >> etc/passwd
echo 'root:x:0:' > etc/group; echo 'worker:x:4000:' >> etc/group
echo old > srv/old; echo kept > srv/kept; chown -R 4000:4000 srv
";
