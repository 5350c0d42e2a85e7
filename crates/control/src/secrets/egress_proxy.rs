//! Proxies that teams name for what their sandboxes send out: kept with an encrypted password, which is in the clear only in
//! the request that names it and on its way to a host.

use atoll_model::api::sandboxes::{EgressProxy, EgressProxyTls};
use atoll_model::{SandboxId, TeamId};
use atoll_rpc::atoll::host::v1 as wire;
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

use super::cipher::{Cipher, OpenError, Place};
use super::headers::{IDENTITY, Piece, pieces, secret_names};
use super::{SecretError, Secrets};

/// What SOCKS5 has room for.
pub const MAX_LOGIN: usize = 255;
/// Stands for the sandbox's id in a login, as with E2B.
const SANDBOX_ID: &str = "{{sandboxID}}";
/// What is said to be wrong when it can't be sealed or opened.
const WHAT: &str = "network.egress_proxy.password";

/// A proxy as a row has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeptProxy {
    address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    username: Option<String>,
    /// Encrypted, with the key's name before: `KEY:VALUE`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tls: Option<EgressProxyTls>,
}

impl KeptProxy {
    /// As it is shown: without the password.
    #[must_use]
    pub fn shown(&self) -> EgressProxy {
        EgressProxy {
            address: self.address.clone(),
            username: self.username.clone(),
            password: None,
            tls: self.tls.clone(),
        }
    }

    /// As the audit trail has it.
    #[must_use]
    pub fn audited(&self) -> serde_json::Value {
        serde_json::json!({ "address": self.address, "username": self.username, "tls": self.tls.is_some() })
    }

    /// As a host is told of it. Without a password that should be there the proxy refuses, as it should.
    #[must_use]
    pub fn to_wire(&self, password: Option<&SecretString>, sandbox: &SandboxId) -> wire::OwnProxy {
        let named = |text: &str| text.replace(SANDBOX_ID, &sandbox.dns_label());
        let tls = self.tls.clone().unwrap_or_default();
        wire::OwnProxy {
            address: self.address.clone(),
            username: self.username.as_deref().map(named).unwrap_or_default(),
            password: password.map(|password| named(password.expose_secret())).unwrap_or_default(),
            tls: self.tls.is_some(),
            server_name: tls.server_name.unwrap_or_default(),
            ca_cert: tls.ca_cert.unwrap_or_default(),
            ..Default::default()
        }
    }
}

/// Encrypts what a team's requests name.
#[derive(Clone, Copy)]
pub struct Sealer<'a> {
    cipher: &'a Cipher,
    team: &'a TeamId,
}

impl<'a> Sealer<'a> {
    #[must_use]
    pub const fn new(cipher: &'a Cipher, team: &'a TeamId) -> Self {
        Self { cipher, team }
    }

    /// A proxy as a row has it. The password of one that was there before and is the same in everything else stays, unless
    /// there is a new one.
    ///
    /// # Errors
    /// If the machine has no randomness, which never is.
    pub fn keep(&self, given: EgressProxy, former: Option<&KeptProxy>) -> Result<KeptProxy, SecretError> {
        let EgressProxy { address, username, password, tls } = given;
        let mut kept = KeptProxy { address, username, password: None, tls };
        let before = former.filter(|former| KeptProxy { password: None, ..(*former).clone() } == kept);
        kept.password = match password.as_deref() {
            None => before.and_then(|former| former.password.clone()),
            Some("") => None,
            Some(password) => {
                let sealed = self.cipher.seal(Place::EgressProxy(self.team), password);
                let sealed = sealed.ok_or_else(|| SecretError::Seal { name: WHAT.to_owned() })?;
                Some(format!("{}:{sealed}", self.cipher.id()))
            }
        };
        Ok(kept)
    }
}

impl Secrets {
    /// For what a team's requests name.
    #[must_use]
    pub fn sealer<'a>(&'a self, team: &'a TeamId) -> Sealer<'a> {
        Sealer::new(&self.cipher, team)
    }

    /// A proxy's password with the team's secrets in it, as they are now.
    ///
    /// # Errors
    /// [`SecretError`].
    pub async fn password_of(&self, team: &TeamId, proxy: &KeptProxy) -> Result<Option<SecretString>, SecretError> {
        let Some(sealed) = &proxy.password else { return Ok(None) };
        let (key, value) = sealed.split_once(':').unwrap_or_default();
        let opened = self.cipher.open(Place::EgressProxy(team), key, value);
        let password = opened.map_err(|source: OpenError| SecretError::Open { name: WHAT.to_owned(), source })?;
        let names = secret_names(password.expose_secret());
        let wanted = names.iter().map(|name| ((*name).to_owned(), (*name).to_owned())).collect();
        let secrets = self.environment(team, &wanted).await.map_err(|error| match error {
            SecretError::NotFound(name) => SecretError::NotForProxy(name),
            error => error,
        })?;
        let mut filled = String::new();
        for piece in pieces(password.expose_secret()).unwrap_or_default() {
            match piece {
                Piece::Plain(text) => filled.push_str(text),
                // Files end with a line.
                Piece::Secret(name) => filled.push_str(
                    secrets.get(name).map_or("", |secret| secret.expose_secret().trim_end_matches(['\r', '\n'])),
                ),
                // It means nothing here, and was none when it was written.
                Piece::Identity(name) => filled.extend([IDENTITY, name, "}"]),
            }
        }
        if filled.len() > MAX_LOGIN || filled.contains(['\r', '\n', '\0']) {
            return Err(SecretError::UnfitForProxy);
        }
        Ok(Some(filled.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn given(address: &str, password: Option<&str>) -> EgressProxy {
        EgressProxy {
            address: address.to_owned(),
            username: Some("ann-{{sandboxID}}".to_owned()),
            password: password.map(str::to_owned),
            tls: None,
        }
    }

    #[test]
    fn a_password_is_kept_encrypted_and_only_for_the_proxy_that_it_was_given_for() {
        let (cipher, team) = (Cipher::for_tests(7), TeamId::new());
        let sealer = Sealer::new(&cipher, &team);
        let kept = sealer.keep(given("a.example:1080", Some("hunter2")), None).unwrap();
        let row = serde_json::to_string(&kept).unwrap();
        assert!(!row.contains("hunter2") && row.contains(cipher.id()), "{row}");
        assert_eq!(serde_json::from_str::<KeptProxy>(&row).unwrap(), kept);
        assert_eq!(kept.shown().password, None);
        assert!(!kept.audited().to_string().contains(cipher.id()));

        let again = |given| sealer.keep(given, Some(&kept)).unwrap().password;
        assert_eq!(again(given("a.example:1080", None)), kept.password);
        assert_eq!(again(given("b.example:1080", None)), None, "another would learn it");
        assert_eq!(again(EgressProxy { username: None, ..given("a.example:1080", None) }), None);
        assert_eq!(again(given("a.example:1080", Some(""))), None);
        assert_ne!(again(given("a.example:1080", Some("other"))), kept.password);
        assert!(!format!("{:?}", given("a.example:1080", Some("hunter2"))).contains("hunter2"));
    }

    #[test]
    fn a_login_may_say_which_sandbox_it_is() {
        let (cipher, team, id) = (Cipher::for_tests(7), TeamId::new(), SandboxId::new());
        let kept = Sealer::new(&cipher, &team).keep(given("a.example:1080", Some("x")), None).unwrap();
        let told = kept.to_wire(Some(&"x-{{sandboxID}}-y".to_owned().into()), &id);
        assert_eq!(told.username, format!("ann-{}", id.dns_label()));
        assert_eq!(told.password, format!("x-{}-y", id.dns_label()));
        assert!(!told.tls);
        assert_eq!(kept.to_wire(None, &id).password, "");
    }
}
