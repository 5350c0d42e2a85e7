//! What requests may contain. Each check names the field and what is allowed.

mod network;

use std::collections::BTreeMap;
use std::fmt::Display;

use atoll_model::api::sandboxes::{CreateSandboxRequest, ForkRequest, VolumeMount};

pub use network::{is_name, network};

use super::error::{ApiError, ApiResult};
use crate::sandboxes::{Fork, MAX_CHILDREN, Network, NewSandbox, StartFrom};
use crate::secrets::egress_proxy::Sealer;
use crate::volumes::Wish;

pub const VCPUS: (u32, u32) = (1, 64);
pub const MEMORY_MB: (u64, u64) = (32, 1_048_576);
pub const DISK_MB: (u64, u64) = (16, 16_777_216);
pub const MAX_TIMEOUT_SEC: u64 = 31_536_000;
/// Longest path: PATH_MAX of Linux, with its final NUL.
const MAX_PATH: usize = 4095;
const MAX_PATH_COMPONENT: usize = 255;
const MAX_LABELS: usize = 64;
const MAX_LABEL_KEY: usize = 128;
const MAX_LABEL_VALUE: usize = 1024;
const MAX_ENV_ENTRIES: usize = 1024;
const MAX_ENV_BYTES: usize = 256 * 1024;
/// Linux takes no longer argument (MAX_ARG_STRLEN, with its NUL).
const MAX_ARGUMENT: usize = 131_071;
/// All arguments and variables together: a quarter of the usual 8 MiB stack, and a little less for what is added.
const MAX_ARGUMENTS: usize = 2 * 1024 * 1024 - 64 * 1024;
const MAX_USER: usize = 32;
const MAX_TAG: usize = 128;
const MAX_SECRET_NAME: usize = 128;
/// Of one sandbox.
const MAX_SECRETS: usize = 64;
/// Of one sandbox, and their paths.
const MAX_VOLUMES: usize = 8;
const MAX_VOLUME_PATH: usize = 1024;
/// `name:tag`.
const MAX_TEMPLATE: usize = 257;

/// `value` if it lies in the range.
pub fn within<T: PartialOrd + Display>(field: &'static str, value: T, (low, high): (T, T)) -> ApiResult<T> {
    if value >= low && value <= high {
        return Ok(value);
    }
    Err(ApiError::invalid(field, format!("must be between {low} and {high}, not {value}")))
}

/// The name of a driver, or `auto`.
pub fn driver(field: &'static str, name: String) -> ApiResult<String> {
    let known = matches!(name.as_str(), "container" | "vm" | "auto");
    known.then_some(name).ok_or_else(|| ApiError::invalid(field, "must be container, vm or auto"))
}

/// A text of 1 to `max` characters, none of them a control character.
pub fn line(field: &'static str, value: &str, max: usize) -> ApiResult<()> {
    // No character takes more than four bytes: a long text isn't counted.
    if value.is_empty() || value.len() > max * 4 || value.chars().count() > max {
        return Err(ApiError::invalid(field, format!("must have 1 to {max} characters")));
    }
    if value.chars().any(char::is_control) {
        return Err(ApiError::invalid(field, "must not contain control characters"));
    }
    Ok(())
}

/// An email address, as far as its form tells: mail is what proves it.
pub fn email(field: &'static str, value: &str) -> ApiResult<()> {
    line(field, value, 254)?;
    let parts = value.trim().rsplit_once('@');
    let odd = |c: char| c.is_whitespace() || c == ',';
    let sound =
        parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !value.trim().contains(odd));
    if sound { Ok(()) } else { Err(ApiError::invalid(field, "must be an address like name@example.com")) }
}

/// A text of 1 to `max` bytes.
pub fn text(field: &'static str, value: &str, max: usize) -> ApiResult<()> {
    if value.is_empty() || value.len() > max {
        return Err(ApiError::invalid(field, format!("must have 1 to {max} bytes")));
    }
    Ok(())
}

/// What a team may call a secret.
pub fn secret_name(field: &'static str, name: &str) -> ApiResult<()> {
    let first = name.bytes().next().is_some_and(|byte| byte != b'.');
    let plain = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b'.'));
    if first && plain && name.len() <= MAX_SECRET_NAME {
        return Ok(());
    }
    let message = "must have 1 to 128 letters, digits, `_`, `-` and `.`, and not begin with a dot";
    Err(ApiError::invalid(field, message))
}

/// What a sandbox may call an identity: it stands in braces.
pub fn identity_name(field: &'static str, name: &str) -> ApiResult<()> {
    line(field, name, MAX_IDENTITY_NAME)?;
    if name.contains(['{', '}']) {
        return Err(ApiError::invalid(field, "an identity's name must not contain braces"));
    }
    Ok(())
}

fn identities(identities: &BTreeMap<String, String>) -> ApiResult<()> {
    const FIELD: &str = "identities";
    if identities.len() > MAX_IDENTITIES {
        return Err(ApiError::invalid(FIELD, format!("must have at most {MAX_IDENTITIES} entries")));
    }
    identities.iter().try_for_each(|(name, audience)| {
        identity_name(FIELD, name)?;
        line(FIELD, audience, MAX_AUDIENCE)
    })
}

/// For what comes by other ways than the extractors, which let no NUL through: frames of WebSockets, forms.
fn no_nul(field: impl Display, value: &str) -> ApiResult<()> {
    if value.contains('\0') {
        return Err(ApiError::invalid(field.to_string(), "must not contain a NUL byte"));
    }
    Ok(())
}

/// A path inside a sandbox: absolute, relative to the user's home, or `~/...`. What `..` means is the guest's
/// business: it can lead nowhere but into the sandbox itself.
pub fn path(field: &'static str, value: &str) -> ApiResult<()> {
    no_nul(field, value)?;
    if value.is_empty() {
        return Err(ApiError::invalid(field, "must not be empty"));
    }
    if value.len() > MAX_PATH {
        return Err(ApiError::invalid(field, format!("must have at most {MAX_PATH} bytes")));
    }
    if value.split('/').any(|component| component.len() > MAX_PATH_COMPONENT) {
        return Err(ApiError::invalid(field, format!("no part of it may have more than {MAX_PATH_COMPONENT} bytes")));
    }
    Ok(())
}

/// The name of a user inside a sandbox.
pub fn user(value: Option<&str>) -> ApiResult<()> {
    let Some(value) = value else { return Ok(()) };
    line("user", value, MAX_USER)?;
    if value.contains(':') {
        return Err(ApiError::invalid("user", "must not contain a colon"));
    }
    Ok(())
}

pub fn tag(value: Option<&str>) -> ApiResult<()> {
    let Some(value) = value else { return Ok(()) };
    if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(ApiError::invalid("tag", "must not be a number: where a process is named, that is a pid"));
    }
    line("tag", value, MAX_TAG)
}

pub fn env(env: &BTreeMap<String, String>) -> ApiResult<()> {
    if env.len() > MAX_ENV_ENTRIES {
        return Err(ApiError::invalid("env", format!("must have at most {MAX_ENV_ENTRIES} entries")));
    }
    for (name, value) in env {
        if name.is_empty() || name.contains('=') {
            return Err(ApiError::invalid("env", "a variable's name must not be empty or contain `=`"));
        }
        no_nul("env", name)?;
        no_nul(format_args!("env.{name}"), value)?;
    }
    if env.iter().map(|(name, value)| name.len() + value.len() + 2).sum::<usize>() > MAX_ENV_BYTES {
        return Err(ApiError::invalid("env", format!("must have at most {MAX_ENV_BYTES} bytes in all")));
    }
    Ok(())
}

/// A command line that Linux will take.
pub fn command(cmd: &str, args: &[String], variables: &BTreeMap<String, String>) -> ApiResult<()> {
    no_nul("cmd", cmd)?;
    if cmd.is_empty() {
        return Err(ApiError::invalid("cmd", "must not be empty"));
    }
    if cmd.len() > MAX_PATH {
        return Err(ApiError::invalid("cmd", format!("must have at most {MAX_PATH} bytes")));
    }
    env(variables)?;
    let too_long = |what: String| Err(ApiError::invalid("args", format!("argument list too long: {what}")));
    for (index, argument) in args.iter().enumerate() {
        no_nul(format_args!("args[{index}]"), argument)?;
        if argument.len() > MAX_ARGUMENT {
            let length = argument.len();
            return too_long(format!("argument {index} has {length} bytes, Linux takes at most {MAX_ARGUMENT}"));
        }
    }
    // Each argument and variable also costs its NUL and a pointer.
    let size: usize = args.iter().map(|argument| argument.len() + 9).sum::<usize>()
        + variables.iter().map(|(name, value)| name.len() + value.len() + 10).sum::<usize>();
    if size > MAX_ARGUMENTS {
        return too_long(format!("{size} bytes in all, Linux takes at most {MAX_ARGUMENTS}"));
    }
    Ok(())
}

pub fn metadata(metadata: &BTreeMap<String, String>) -> ApiResult<()> {
    if metadata.len() > MAX_LABELS {
        return Err(ApiError::invalid("metadata", format!("must have at most {MAX_LABELS} entries")));
    }
    for (key, value) in metadata {
        if key.is_empty() || key.chars().count() > MAX_LABEL_KEY {
            return Err(ApiError::invalid("metadata", format!("a key must have 1 to {MAX_LABEL_KEY} characters")));
        }
        if value.chars().count() > MAX_LABEL_VALUE {
            let field = format!("metadata.{key}");
            return Err(ApiError::invalid(field, format!("must have at most {MAX_LABEL_VALUE} characters")));
        }
    }
    Ok(())
}

pub fn timeout_sec(value: u64) -> ApiResult<u64> {
    within("timeout_sec", value, (0, MAX_TIMEOUT_SEC))
}

/// Of one sandbox.
const MAX_IDENTITIES: usize = 5;
const MAX_IDENTITY_NAME: usize = 128;
const MAX_AUDIENCE: usize = 1024;

/// Variables that get their values from secrets.
fn secrets(secrets: &BTreeMap<String, String>, env: &BTreeMap<String, String>) -> ApiResult<()> {
    if secrets.len() > MAX_SECRETS {
        return Err(ApiError::invalid("secrets", format!("must have at most {MAX_SECRETS} entries")));
    }
    for (variable, name) in secrets {
        if variable.is_empty() || variable.contains(['=', '\0']) {
            return Err(ApiError::invalid("secrets", "a variable's name must not be empty or contain `=` or NUL"));
        }
        if env.contains_key(variable) {
            return Err(ApiError::invalid("secrets", format!("the variable `{variable}` is in `env` too")));
        }
        secret_name("secrets", name)?;
    }
    Ok(())
}

/// Volumes of a sandbox, each at a place of its own that is not the system's.
fn volumes(mounts: &[VolumeMount]) -> ApiResult<Vec<Wish>> {
    let invalid = |message: String| Err(ApiError::invalid("volumes", message));
    if mounts.len() > MAX_VOLUMES {
        return invalid(format!("must be at most {MAX_VOLUMES}"));
    }
    let mut wishes: Vec<Wish> = Vec::with_capacity(mounts.len());
    for mount in mounts {
        line("volumes", &mount.volume, 64)?;
        let path = mount.path.strip_suffix('/').unwrap_or(&mount.path);
        let plain = |part: &str| !part.is_empty() && part != "." && part != ".." && part.len() <= MAX_PATH_COMPONENT;
        let inside = path.strip_prefix('/').is_some_and(|rest| rest.split('/').all(plain));
        if !inside || path.len() > MAX_VOLUME_PATH || path.contains('\0') {
            return invalid(format!(
                "a path must be absolute, not the root, without `.` and `..`, and of {MAX_VOLUME_PATH} bytes at most"
            ));
        }
        let below = |other: &str| path == other || path.strip_prefix(other).is_some_and(|rest| rest.starts_with('/'));
        if ["/proc", "/sys", "/dev"].into_iter().any(below) {
            return invalid(format!("nothing can be mounted at `{path}`"));
        }
        let clash = wishes.iter().find(|other| below(&other.path) || other.path.starts_with(&format!("{path}/")));
        if let Some(other) = clash {
            return invalid(format!("`{path}` and `{}` lie in each other", other.path));
        }
        let (volume, read_only) = (mount.volume.clone(), mount.read_only);
        wishes.push(Wish { volume, path: path.to_owned(), read_only });
    }
    Ok(wishes)
}

/// A request to create a sandbox, checked and with its defaults.
pub fn new_sandbox(
    sealer: &Sealer<'_>,
    request: CreateSandboxRequest,
    team_network: Option<&Network>,
    keep_if_abandoned: bool,
) -> ApiResult<NewSandbox> {
    let template = request.template.unwrap_or_else(|| "base".to_owned());
    line("template", &template, MAX_TEMPLATE)?;
    let driver = request.driver.map(|driver| self::driver("driver", driver)).transpose()?;
    let start_from = match request.start_from.as_deref() {
        None => None,
        Some("memory") => Some(StartFrom::Memory),
        Some("files") => Some(StartFrom::Files),
        Some(_) => return Err(ApiError::invalid("start_from", "must be memory or files")),
    };
    env(&request.env)?;
    secrets(&request.secrets, &request.env)?;
    identities(&request.identities)?;
    metadata(&request.metadata)?;
    Ok(NewSandbox {
        template,
        vcpus: request.vcpus.map(|value| within("vcpus", value, VCPUS)).transpose()?,
        memory_mb: request.memory_mb.map(|value| within("memory_mb", value, MEMORY_MB)).transpose()?,
        disk_mb: request.disk_mb.map(|value| within("disk_mb", value, DISK_MB)).transpose()?,
        timeout_sec: timeout_sec(request.timeout_sec.unwrap_or(0))?,
        lifetime_sec: None,
        on_timeout: request.on_timeout.unwrap_or_default(),
        auto_resume: request.auto_resume.unwrap_or(false),
        on_reboot: request.on_reboot.unwrap_or_default(),
        driver,
        start_from,
        env: request.env,
        secrets: request.secrets,
        volumes: volumes(&request.volumes)?,
        metadata: request.metadata,
        network: Network {
            public: request.public.unwrap_or(false),
            identities: request.identities,
            ..match (request.internet, request.network, team_network) {
                (None, None, Some(default)) => default.clone(),
                (internet, policy, _) => network(sealer, internet, policy.unwrap_or_default(), None)?,
            }
        },
        purpose: String::new(),
        keep_if_abandoned,
        times: crate::sandboxes::StepTimes::default(),
    })
}

/// A request to fork a sandbox, checked and with its defaults.
pub fn fork(request: ForkRequest) -> ApiResult<Fork> {
    if let Some(labels) = &request.metadata {
        metadata(labels)?;
    }
    Ok(Fork {
        count: within("count", request.count.unwrap_or(1), (1, MAX_CHILDREN))?,
        timeout_sec: request.timeout_sec.map(timeout_sec).transpose()?,
        lifetime_sec: None,
        metadata: request.metadata,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secrets::cipher::Cipher;
    use proptest::prelude::*;

    fn new_sandbox(request: CreateSandboxRequest) -> ApiResult<NewSandbox> {
        super::new_sandbox(&Sealer::new(&Cipher::for_tests(1), &atoll_model::TeamId::new()), request, None, false)
    }

    fn field<T>(result: ApiResult<T>) -> Option<String> {
        result.err().and_then(|error| error.field).map(|field| field.into_owned())
    }

    #[test]
    fn absurd_sizes_are_refused_by_name() {
        type Set = fn(&mut CreateSandboxRequest);
        let cases: [(&str, Set); 8] = [
            ("vcpus", |request| request.vcpus = Some(0)),
            ("vcpus", |request| request.vcpus = Some(u32::MAX)),
            ("memory_mb", |request| request.memory_mb = Some(0)),
            ("memory_mb", |request| request.memory_mb = Some(u64::MAX)),
            ("disk_mb", |request| request.disk_mb = Some(15)),
            ("disk_mb", |request| request.disk_mb = Some(u64::MAX)),
            ("timeout_sec", |request| request.timeout_sec = Some(u64::MAX)),
            ("driver", |request| request.driver = Some("magic".to_owned())),
        ];
        for (name, set) in cases {
            let mut request = CreateSandboxRequest::default();
            set(&mut request);
            assert_eq!(field(new_sandbox(request)).as_deref(), Some(name));
        }
        assert!(new_sandbox(CreateSandboxRequest::default()).is_ok());
    }

    #[test]
    fn volumes_have_places_of_their_own_that_are_not_the_systems() {
        let at = |paths: &[&str]| {
            let mount =
                |path: &&str| VolumeMount { volume: "v".to_owned(), path: (*path).to_owned(), read_only: false };
            volumes(&paths.iter().map(mount).collect::<Vec<_>>())
        };
        assert_eq!(at(&["/data/", "/srv/x", "/database", "/process"]).unwrap()[0].path, "/data");
        let wrong: [&[&str]; 13] = [
            &["data"],
            &["/"],
            &[""],
            &["/a//b"],
            &["/a/../b"],
            &["/./a"],
            &["/a\0"],
            &["/proc"],
            &["/dev/shm"],
            &["/sys/x"],
            &["/a", "/a"],
            &["/a", "/a/b"],
            &["/a/b", "/a"],
        ];
        for paths in wrong {
            assert_eq!(field(at(paths)).as_deref(), Some("volumes"), "{paths:?}");
        }
        assert!(at(&["/1", "/2", "/3", "/4", "/5", "/6", "/7", "/8", "/9"]).is_err());
    }

    #[test]
    fn a_variable_is_a_secrets_or_a_plain_one() {
        let with = |secrets: &[(&str, &str)]| {
            let secrets = secrets.iter().map(|(variable, name)| ((*variable).to_owned(), (*name).to_owned())).collect();
            let env = BTreeMap::from([("PLAIN".to_owned(), "x".to_owned())]);
            new_sandbox(CreateSandboxRequest { secrets, env, ..Default::default() })
        };
        assert!(with(&[("KEY", "my.key-1_A"), ("KEY2", "my.key-1_A")]).is_ok());
        for pair in [
            ("PLAIN", "s"),
            ("", "s"),
            ("A=B", "s"),
            ("A", ""),
            ("A", ".s"),
            ("A", "a b"),
            ("A", "x".repeat(129).as_str()),
        ] {
            assert_eq!(field(with(&[pair])).as_deref(), Some("secrets"), "{pair:?}");
        }
    }

    #[test]
    fn a_command_line_that_linux_would_refuse_names_args() {
        let none = BTreeMap::new();
        let huge = vec!["x".repeat(10 * 1024 * 1024)];
        assert_eq!(field(command("echo", &huge, &none)).as_deref(), Some("args"));
        let many = vec!["x".repeat(1000); 10_000];
        assert_eq!(field(command("echo", &many, &none)).as_deref(), Some("args"));
        assert_eq!(field(command("e\0cho", &[], &none)).as_deref(), Some("cmd"));
        assert_eq!(field(command("echo", &["a\0".to_owned()], &none)).as_deref(), Some("args[0]"));
        assert!(command("echo", &["a".to_owned()], &none).is_ok());
    }

    proptest! {
        #[test]
        fn no_path_with_nul_or_of_absurd_length_passes(text in "[a./~\u{0}]{0,6000}") {
            let passes = path("path", &text).is_ok();
            let longest = text.split('/').map(str::len).max().unwrap_or(0);
            prop_assert_eq!(passes, !text.is_empty() && text.len() <= 4095 && longest <= 255 && !text.contains('\0'));
        }

        #[test]
        fn sizes_pass_exactly_within_their_range(vcpus in any::<u32>(), memory in any::<u64>(), disk in any::<u64>()) {
            let request = CreateSandboxRequest {
                vcpus: Some(vcpus), memory_mb: Some(memory), disk_mb: Some(disk), ..Default::default()
            };
            let inside = (1..=64).contains(&vcpus) && (32..=1_048_576).contains(&memory)
                && (16..=16_777_216).contains(&disk);
            prop_assert_eq!(new_sandbox(request).is_ok(), inside);
        }
    }
}
