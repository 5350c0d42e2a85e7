//! A client of registries that others have written, which pushes images to Atoll's own.

use std::path::Path;
use std::process::{Command, Output};

use secrecy::ExposeSecret;

use crate::atoll::Atoll;
use crate::registry::{ROOT, archive, write_layout};

/// What `docker login` and `docker push` would do, with credentials in a file of its own.
pub struct Skopeo<'a> {
    pub atoll: &'a Atoll,
    pub scratch: &'a Path,
}

impl Skopeo<'_> {
    pub fn host(&self) -> String {
        let url = self.atoll.credentials().url;
        url.trim_start_matches("http://").trim_end_matches('/').to_owned()
    }

    pub fn run(&self, args: &[&str]) -> Output {
        let policy = ["--insecure-policy"];
        let mut command = Command::new("skopeo");
        command.args(policy).args(args).env("REGISTRY_AUTH_FILE", self.scratch.join("auth.json"));
        command.env("HOME", self.scratch).env_remove("http_proxy").env_remove("HTTP_PROXY");
        command.output().expect("skopeo (scripts/test.sh installs it)")
    }

    pub fn does(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}\n{}\n{}", text(&output.stderr), self.atoll.log());
        text(&output.stdout)
    }

    pub fn sign_in(&self) {
        let key = self.atoll.credentials().api_key.expect("a key");
        let key = key.expose_secret();
        self.does(&["login", "--tls-verify=false", "-u", "_e2b_access_token", "-p", key, &self.host()]);
    }

    pub fn copy(&self, from: &str, to: &str) {
        self.does(&["copy", "--quiet", "--src-tls-verify=false", "--dest-tls-verify=false", from, to]);
    }
}

/// What a program has printed.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A root file system with a shell, as two layers, in the layout of OCI.
pub fn image(scratch: &Path) -> String {
    // What E2B's builds run first: the user is there, and `chmod` for what it may do.
    let root = format!(
        "{ROOT}\ncp -L $(command -v chmod) bin/chmod; echo 'user:x:1000:1000::/home/user:/bin/sh' >> etc/passwd
         echo 'user:x:1000:' >> etc/group"
    );
    let layers =
        [archive(scratch, &root), archive(scratch, "mkdir srv; echo pushed > srv/note; chown -R 4000:4000 srv")];
    let directory = scratch.join("image");
    write_layout(&directory, &layers, r#"{"User":"4000","WorkingDir":"/srv","Env":["PATH=/bin","FLAVOUR=plain"]}"#);
    format!("oci:{}:1", directory.display())
}
