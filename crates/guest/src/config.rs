//! What the guest is told at its start, and what may be changed while it runs.
//!
//! [`Config`] comes once from the launcher (descriptor 4) or, in development, from a file, and never changes.
//! [`Settings`] starts from it and is replaced by `POST /init` and `GuestService.Configure`.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::trust;

/// The largest configuration that is read; far above what the launcher writes.
pub const MAX_CONFIG_BYTES: u64 = 1024 * 1024;

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Config {
    pub sandbox_id: String,
    pub template: String,
    pub hostname: String,
    pub env: BTreeMap<String, String>,
    pub default_user: String,
    pub default_workdir: String,
    pub access_token: Option<String>,
    pub boot_id: String,
    pub vcpus: f64,
    pub memory_bytes: u64,
    /// What the template wants to run at each start of the sandbox.
    pub startup: Option<Startup>,
    /// A certificate in PEM that programs inside are to trust, beside those of the image.
    pub authority: Option<String>,
    /// A listener on 127.0.0.1 for programs inside the sandbox; none unless given.
    pub tcp_port: Option<u16>,
}

/// A command line for the shell.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Startup {
    pub cmd: String,
    pub user: String,
    pub cwd: String,
}

impl Config {
    pub fn parse(text: &[u8]) -> Result<Self, String> {
        let mut config: Self =
            serde_json::from_slice(text).map_err(|error| format!("the guest's configuration isn't valid: {error}"))?;
        config.access_token = config.access_token.filter(|token| !token.is_empty());
        Ok(config)
    }

    /// Whole processors that the sandbox may use, at least one: what programs inside are shown.
    pub fn cpu_count(&self) -> u32 {
        let given = if self.vcpus > 0.0 { self.vcpus.ceil() } else { online_cpus() };
        given.clamp(1.0, 4096.0) as u32
    }
}

fn online_cpus() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

/// The part of the configuration that callers may replace while the guest runs.
#[derive(Clone, Default)]
pub struct Settings {
    pub env: BTreeMap<String, String>,
    pub default_user: String,
    pub default_workdir: String,
    access_token: Option<String>,
    /// Where the certificates are that programs trust, when there are more than the image's.
    trusted: Option<&'static str>,
    /// Unix seconds and nanoseconds of the newest `/init` that was obeyed; older ones are ignored.
    pub initialised_at: Option<(i64, u32)>,
}

impl Settings {
    pub fn from_config(config: &Config) -> Self {
        let mut settings = Self {
            env: BTreeMap::new(),
            default_user: config.default_user.clone(),
            default_workdir: config.default_workdir.clone(),
            access_token: config.access_token.clone(),
            trusted: None,
            initialised_at: None,
        };
        settings.replace_env(config, config.env.clone());
        settings
    }

    /// Replaces the environment that every program gets; what names the sandbox is always there.
    pub fn replace_env(&mut self, config: &Config, env: BTreeMap<String, String>) {
        self.env = BTreeMap::from([
            ("E2B_SANDBOX".to_owned(), "true".to_owned()),
            ("E2B_SANDBOX_ID".to_owned(), config.sandbox_id.clone()),
            ("E2B_TEMPLATE_ID".to_owned(), config.template.clone()),
        ]);
        self.env.extend(self.trusted.into_iter().flat_map(trust::variables));
        self.env.extend(env);
    }

    /// Has programs look for certificates here. What the caller has said of the same variables stands.
    pub fn set_trusted(&mut self, bundle: &'static str) {
        self.trusted = Some(bundle);
        for (name, value) in trust::variables(bundle) {
            self.env.entry(name).or_insert(value);
        }
    }

    pub fn access_token(&self) -> Option<&str> {
        self.access_token.as_deref()
    }

    /// Sets the token that requests must carry; an empty one means none.
    pub fn set_access_token(&mut self, token: Option<String>) {
        self.access_token = token.filter(|token| !token.is_empty());
    }
}

impl std::fmt::Debug for Settings {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Settings")
            .field("default_user", &self.default_user)
            .field("default_workdir", &self.default_workdir)
            .field("access_token", &self.access_token.as_ref().map(|_| "(set)"))
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_launchers_configuration_is_understood() {
        let config = Config::parse(
            br#"{"sandbox_id":"i1","template":"base","hostname":"box","env":{"A":"1"},"default_user":"user",
                "default_workdir":"/home/user","access_token":"","boot_id":"b","vcpus":1.5,"memory_bytes":1024,
                "something_newer":true}"#,
        )
        .expect("valid");
        assert_eq!(config.cpu_count(), 2);
        assert_eq!(config.access_token, None);
        let settings = Settings::from_config(&config);
        assert_eq!(settings.env.get("A").map(String::as_str), Some("1"));
        assert_eq!(settings.env.get("E2B_SANDBOX_ID").map(String::as_str), Some("i1"));
    }

    #[test]
    fn the_access_token_never_shows_in_debug_output() {
        let mut settings = Settings::default();
        settings.set_access_token(Some("s3cr3t".into()));
        assert!(!format!("{settings:?}").contains("s3cr3t"));
    }
}
