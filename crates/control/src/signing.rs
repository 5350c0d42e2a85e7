//! Signing keys of tokens: JWTs with the id of the key that signed them; EdDSA (Ed25519) for ours alone, ES256 for those
//! that others read.
//!
//! Keys are in the database, shared by all replicas and made by whoever starts first; or in a file of the operator's
//! (`--jwt-key`), the same on every replica. [`rotate`] makes a new key; older ones sign no more, and are accepted until
//! every token that they signed is over. A replica learns of a new key by the first token with an id that it doesn't
//! know, and within a minute by itself. Others keep the keys that they have read for a while: for them a new key is
//! published first and signs later ([`Purpose::ahead`]), and its id is its thumbprint (RFC 7638), so that none of another
//! server of the same address is taken for it. A token is worth something only under the purpose that its key was made
//! for and with that purpose's `typ`: a host's is never taken for a person's, nor the reverse.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::audit::{self, Actor, Entry, Origin};
use crate::db::keys::{self, StoredKey};
use crate::db::{Db, DbError, During, Millis, on};

const ISSUER: &str = "atoll";
/// Longer texts are no token of ours.
const MAX_TOKEN: usize = 4096;
/// Unknown ids make a replica look for new keys no more often than this.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// What keys are for: the name under which they are kept, the `typ` of their tokens, and how they sign.
#[derive(Debug, Clone, Copy)]
pub struct Purpose {
    pub name: &'static str,
    pub typ: &'static str,
    pub algorithm: Algorithm,
    /// So long a new key is published before it signs, unless no older one is left.
    pub ahead: Duration,
}

/// People.
pub const USERS: Purpose =
    Purpose { name: "user_jwt", typ: "user", algorithm: Algorithm::EdDSA, ahead: Duration::ZERO };
/// Hosts.
pub const HOSTS: Purpose =
    Purpose { name: "host_jwt", typ: "host", algorithm: Algorithm::EdDSA, ahead: Duration::ZERO };
/// Sandboxes, for services elsewhere: of what these accept, the quickest to sign.
pub const WORKLOADS: Purpose = Purpose {
    name: "workload_jwt",
    typ: "JWT",
    algorithm: Algorithm::ES256,
    // Who has read them the moment before, and an answer that took its time.
    ahead: PUBLISHED_FOR.saturating_mul(2),
};
/// Who reads public keys may keep them for so long.
pub const PUBLISHED_FOR: Duration = Duration::from_secs(60);

#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error("could not make a signing key")]
    MakeKey(#[source] rcgen::Error),
    #[error("a signing key in the database is not usable")]
    BadKey(#[source] jsonwebtoken::errors::Error),
    #[error("could not sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("reading the signing key {path}: {cause}")]
    File { path: String, cause: String },
    #[error(transparent)]
    Db(#[from] DbError),
}

/// What every token of ours says, around its own claims.
#[derive(Serialize, Deserialize)]
struct Envelope<C> {
    iss: String,
    typ: String,
    iat: i64,
    exp: i64,
    #[serde(flatten)]
    claims: C,
}

/// A token that we signed.
#[derive(Debug)]
pub struct Verified<C> {
    pub claims: C,
    pub expires_at: Millis,
    /// Of the key that signed it.
    pub kid: String,
}

struct VerifyingKey {
    key: DecodingKey,
    public_pem: String,
    /// Accepted until then.
    until: Option<Millis>,
}

struct Known {
    kid: String,
    signing: EncodingKey,
    verifying: HashMap<String, VerifyingKey>,
}

/// Signs and checks tokens of one purpose.
pub struct JwtKeys {
    db: Db,
    purpose: Purpose,
    /// Of the operator's file; the first one signs.
    own: Vec<StoredKey>,
    known: RwLock<Arc<Known>>,
    looked: AtomicI64,
    validation: Validation,
}

fn generate(algorithm: Algorithm) -> Result<StoredKey, SigningError> {
    let kind = if algorithm == Algorithm::ES256 { &rcgen::PKCS_ECDSA_P256_SHA256 } else { &rcgen::PKCS_ED25519 };
    let pair = rcgen::KeyPair::generate_for(kind).map_err(SigningError::MakeKey)?;
    Ok(StoredKey { kid: String::new(), private_pem: pair.serialize_pem(), public_pem: pair.public_key_pem() })
}

/// The keys in a PEM file: the first one signs, all are accepted.
fn read_file(path: &Path) -> Result<Vec<StoredKey>, SigningError> {
    let failed = |cause: String| SigningError::File { path: path.display().to_string(), cause };
    let mut found = Vec::new();
    for der in PrivatePkcs8KeyDer::pem_file_iter(path).map_err(|error| failed(error.to_string()))? {
        let der = der.map_err(|error| failed(error.to_string()))?;
        let pair = rcgen::KeyPair::from_pkcs8_der_and_sign_algo(&der, &rcgen::PKCS_ED25519).map_err(|error| {
            failed(format!("{error}; expected Ed25519, as `openssl genpkey -algorithm ed25519` makes it"))
        })?;
        let digest = hex::encode(Sha256::digest(pair.public_key_raw()));
        let kid = format!("file-{}", &digest[..16]);
        found.push(StoredKey { kid, private_pem: pair.serialize_pem(), public_pem: pair.public_key_pem() });
    }
    if found.is_empty() {
        return Err(failed("it holds no private key (PKCS #8, PEM)".to_owned()));
    }
    Ok(found)
}

fn verifying(key: &StoredKey, algorithm: Algorithm, until: Option<Millis>) -> Result<VerifyingKey, SigningError> {
    let pem = key.public_pem.as_bytes();
    let decoding = if algorithm == Algorithm::ES256 { DecodingKey::from_ec_pem } else { DecodingKey::from_ed_pem };
    let public_pem = key.public_pem.clone();
    Ok(VerifyingKey { key: decoding(pem).map_err(SigningError::BadKey)?, public_pem, until })
}

/// Both coordinates of a public key of ES256.
fn coordinates(public_pem: &str) -> Option<(String, String)> {
    let der = SubjectPublicKeyInfoDer::from_pem_slice(public_pem.as_bytes()).ok()?;
    // What describes the curve, a four for "not compressed", and the point.
    let (rest, point) = der.as_ref().split_last_chunk::<64>()?;
    rest.last().filter(|byte| **byte == 4)?;
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Some((text(&point[..32]), text(&point[32..])))
}

/// A public key of ES256 as RFC 7517 has it.
fn as_jwk(kid: &str, public_pem: &str) -> Option<serde_json::Value> {
    let (x, y) = coordinates(public_pem)?;
    Some(json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y }))
}

/// By which id tokens name the key: what it is kept under, or, where others read it, its thumbprint.
fn kid_of(key: &StoredKey, algorithm: Algorithm) -> String {
    match coordinates(&key.public_pem) {
        Some((x, y)) if algorithm == Algorithm::ES256 => {
            // RFC 7638, section 3.2: these members in this order, without spaces.
            let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
            URL_SAFE_NO_PAD.encode(Sha256::digest(members))
        }
        _ => key.kid.clone(),
    }
}

/// The newest key that has been published for long enough to sign; where none has been, the one that has been longest.
async fn signing(db: &Db, purpose: Purpose, now: Millis) -> Result<Option<StoredKey>, DbError> {
    on!(read db, |c| sqlx::query_as(
        "SELECT kid, private_pem, public_pem FROM signing_keys
         WHERE purpose = $1 AND (retired_at IS NULL OR retired_at > $3)
         ORDER BY CASE WHEN created_at <= $2 THEN -created_at ELSE created_at END, kid LIMIT 1"
    )
    .bind(purpose.name)
    .bind(now - purpose.ahead)
    .bind(now)
    .fetch_optional(c)
    .await)
    .during("read the key that signs")
}

async fn look(db: &Db, purpose: Purpose, own: &[StoredKey], now: Millis) -> Result<Known, SigningError> {
    let accepted = keys::accepted(db, purpose.name, now).await?;
    let algorithm = purpose.algorithm;
    let mut known = HashMap::new();
    for row in &accepted {
        known.insert(kid_of(&row.key, algorithm), verifying(&row.key, algorithm, row.retired_at)?);
    }
    for key in own {
        known.insert(key.kid.clone(), verifying(key, algorithm, None)?);
    }
    let current = match own.first() {
        Some(key) => key.clone(),
        None => {
            let newest = keys::current_or(db, purpose.name, generate(algorithm)?, now).await?;
            known.entry(kid_of(&newest, algorithm)).or_insert(verifying(&newest, algorithm, None)?);
            if purpose.ahead.is_zero() { newest } else { signing(db, purpose, now).await?.unwrap_or(newest) }
        }
    };
    let kid = kid_of(&current, algorithm);
    let encoding = if algorithm == Algorithm::ES256 { EncodingKey::from_ec_pem } else { EncodingKey::from_ed_pem };
    let signing = encoding(current.private_pem.as_bytes()).map_err(SigningError::BadKey)?;
    Ok(Known { kid, signing, verifying: known })
}

impl JwtKeys {
    /// Takes the keys from the database, or makes the first one; those of `file` come before them.
    pub async fn load(db: &Db, purpose: Purpose, file: Option<&Path>, now: Millis) -> Result<Self, SigningError> {
        let own = file.map(read_file).transpose()?.unwrap_or_default();
        let known = look(db, purpose, &own, now).await?;
        let mut validation = Validation::new(purpose.algorithm);
        validation.set_issuer(&[ISSUER]);
        validation.set_required_spec_claims(&["exp", "iss", "sub"]);
        validation.leeway = 0;
        // Time comes from control's clock, and who checks decides what an expired token is worth.
        validation.validate_exp = false;
        Ok(Self {
            db: db.clone(),
            purpose,
            own,
            known: RwLock::new(Arc::new(known)),
            looked: AtomicI64::new(now.0),
            validation,
        })
    }

    fn known(&self) -> Arc<Known> {
        Arc::clone(&self.known.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Looks for keys that others have made or retired.
    pub async fn refresh(&self, now: Millis) -> Result<(), SigningError> {
        let known = look(&self.db, self.purpose, &self.own, now).await?;
        *self.known.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(known);
        self.looked.store(now.0, Ordering::Relaxed);
        Ok(())
    }

    /// The same, unless they were looked for within `age`.
    pub async fn refresh_after(&self, age: Duration, now: Millis) -> Result<(), SigningError> {
        let looked = Millis(self.looked.load(Ordering::Relaxed));
        if now.since(looked) < age { Ok(()) } else { self.refresh(now).await }
    }

    pub fn sign<C: Serialize>(&self, claims: C, now: Millis, ttl: Duration) -> Result<String, SigningError> {
        self.sign_as(self.purpose.typ, claims, now, ttl)
    }

    /// The same for tokens of another kind, which are accepted only as that.
    pub fn sign_as<C: Serialize>(
        &self,
        typ: &str,
        claims: C,
        now: Millis,
        ttl: Duration,
    ) -> Result<String, SigningError> {
        let envelope = Envelope {
            iss: ISSUER.to_owned(),
            typ: typ.to_owned(),
            iat: now.0 / 1000,
            exp: (now + ttl).0 / 1000,
            claims,
        };
        self.sign_claims(&envelope)
    }

    /// Signs these claims and no others.
    pub fn sign_claims<C: Serialize>(&self, claims: &C) -> Result<String, SigningError> {
        let known = self.known();
        let mut header = Header::new(self.purpose.algorithm);
        header.kid = Some(known.kid.clone());
        jsonwebtoken::encode(&header, claims, &known.signing).map_err(SigningError::Sign)
    }

    /// The public keys of ES256 by which tokens are accepted at this time, as a JSON Web Key Set (RFC 7517).
    pub async fn key_set(&self, now: Millis) -> Result<serde_json::Value, SigningError> {
        self.refresh_after(LOOK_AGAIN, now).await?;
        let known = self.known();
        let accepted = known.verifying.iter().filter(|(_, key)| key.until.is_none_or(|until| until > now));
        let mut keys: Vec<_> = accepted.filter_map(|(kid, key)| as_jwk(kid, &key.public_pem)).collect();
        keys.sort_by_key(|key| key["kid"].as_str().map(str::to_owned));
        Ok(json!({ "keys": keys }))
    }

    /// Whether a text is a token of this purpose by the id of its key, whatever it is still worth.
    #[must_use]
    pub fn made(&self, token: &str) -> bool {
        let kid = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid);
        kid.is_some_and(|kid| {
            let ours = kid.strip_prefix(self.purpose.name).is_some_and(|rest| rest.starts_with('-'));
            ours || self.known().verifying.contains_key(&kid)
        })
    }

    /// Whether tokens that this key signed are accepted, as far as this replica knows.
    #[must_use]
    pub fn accepts(&self, kid: &str, now: Millis) -> bool {
        self.known().verifying.get(kid).is_some_and(|key| key.until.is_none_or(|until| until > now))
    }

    /// The claims of a token that we signed, expired or not; nothing for any other text.
    pub async fn verify<C: DeserializeOwned>(
        &self,
        token: &str,
        now: Millis,
    ) -> Result<Option<Verified<C>>, SigningError> {
        self.verify_as(self.purpose.typ, token, now).await
    }

    /// The same for tokens of another kind.
    pub async fn verify_as<C: DeserializeOwned>(
        &self,
        typ: &str,
        token: &str,
        now: Millis,
    ) -> Result<Option<Verified<C>>, SigningError> {
        if token.len() > MAX_TOKEN {
            return Ok(None);
        }
        let Some(kid) = jsonwebtoken::decode_header(token).ok().and_then(|header| header.kid) else { return Ok(None) };
        if !self.known().verifying.contains_key(&kid) {
            let looked = Millis(self.looked.load(Ordering::Relaxed));
            if now.since(looked) < LOOK_AGAIN {
                return Ok(None);
            }
            self.refresh(now).await?;
        }
        let known = self.known();
        let Some(key) = known.verifying.get(&kid).filter(|key| key.until.is_none_or(|until| until > now)) else {
            return Ok(None);
        };
        let decoded = jsonwebtoken::decode::<Envelope<C>>(token, &key.key, &self.validation);
        let Ok(envelope) = decoded.map(|decoded| decoded.claims) else { return Ok(None) };
        if envelope.typ != typ {
            return Ok(None);
        }
        let expires_at = Millis(envelope.exp.saturating_mul(1000));
        Ok(Some(Verified { claims: envelope.claims, expires_at, kid }))
    }
}

/// Makes a new key for `purpose`, with its audit entry. The older ones sign no more once it does, and are accepted for
/// `overlap`. Answers the new one's id.
pub async fn rotate(db: &Db, purpose: Purpose, overlap: Duration, now: Millis) -> Result<String, SigningError> {
    let name = format!("{}-{}", purpose.name, hex::encode(rand::random::<[u8; 6]>()));
    let mut key = StoredKey { kid: name, ..generate(purpose.algorithm)? };
    key.kid = kid_of(&key, purpose.algorithm);
    let kid = key.kid.clone();
    let mut tx = db.begin().await?;
    keys::replace(&mut tx, purpose.name, &key, now + overlap, now).await?;
    let entry = Entry {
        team: None,
        actor: &Actor::System,
        origin: &Origin::default(),
        action: "signing_key.rotate",
        target_kind: "signing_key",
        target_id: Some(&kid),
        result: "ok",
        details: json!({ "purpose": purpose.name, "older_accepted_until": (now + overlap).to_utc() }),
    };
    audit::record(&mut tx, now, &entry).await?;
    tx.commit().await?;
    Ok(kid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::testing::{databases, sqlite};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Claims {
        sub: String,
    }

    const START: Millis = Millis(1_800_000_000_000);
    const HOUR: Duration = Duration::from_secs(3600);

    fn claims() -> Claims {
        Claims { sub: "somebody".to_owned() }
    }

    async fn accepts(keys: &JwtKeys, token: &str, now: Millis) -> bool {
        keys.verify::<Claims>(token, now).await.unwrap().is_some_and(|verified| verified.claims == claims())
    }

    #[tokio::test]
    async fn a_rotation_lets_old_tokens_be_good_until_they_are_over_on_every_replica() {
        for test in databases().await {
            let one = JwtKeys::load(&test.db, USERS, None, START).await.unwrap();
            let other = JwtKeys::load(&test.db, USERS, None, START).await.unwrap();
            let old = one.sign(claims(), START, HOUR).unwrap();
            let later = START + LOOK_AGAIN;
            let kid = rotate(&test.db, USERS, HOUR, later).await.unwrap();
            one.refresh(later).await.unwrap();
            let new = one.sign(claims(), later, HOUR).unwrap();
            assert_eq!(jsonwebtoken::decode_header(&new).unwrap().kid, Some(kid));
            assert_ne!(jsonwebtoken::decode_header(&old).unwrap().kid, jsonwebtoken::decode_header(&new).unwrap().kid);
            assert!(accepts(&one, &old, later).await && accepts(&one, &new, later).await);
            assert!(accepts(&other, &new, later).await, "an id that it doesn't know makes it look");
            let over = later + HOUR;
            assert!(!accepts(&one, &old, over).await && !accepts(&other, &old, over).await);
            assert!(accepts(&one, &new, over).await);
        }
    }

    fn kid(token: &str) -> String {
        jsonwebtoken::decode_header(token).unwrap().kid.unwrap()
    }

    async fn published(keys: &JwtKeys, now: Millis) -> Vec<String> {
        let set = keys.key_set(now).await.unwrap();
        set["keys"].as_array().unwrap().iter().map(|key| key["kid"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn a_key_that_others_read_is_published_before_it_signs() {
        for test in databases().await {
            let keys = JwtKeys::load(&test.db, WORKLOADS, None, START).await.unwrap();
            let first = kid(&keys.sign(claims(), START, HOUR).unwrap());
            assert_eq!(published(&keys, START).await.concat(), first, "the first one signs at once");
            let begun = START + HOUR;
            let second = rotate(&test.db, WORKLOADS, HOUR, begun).await.unwrap();
            // Who has read the keys the moment before has the new one a minute later.
            for (after, signs) in [(0, &first), (61, &first), (119, &first), (120, &second), (4000, &second)] {
                let now = begun + Duration::from_secs(after);
                keys.refresh(now).await.unwrap();
                assert!(published(&keys, now).await.contains(&second), "{after} s");
                assert_eq!(kid(&keys.sign(claims(), now, HOUR).unwrap()), *signs, "{after} s");
                // Whoever starts then does the same.
                let other = JwtKeys::load(&test.db, WORKLOADS, None, now).await.unwrap();
                assert_eq!(kid(&other.sign(claims(), now, HOUR).unwrap()), *signs, "{after} s");
            }
            // One that is to be used no more is used no more.
            let now = begun + HOUR * 2;
            let third = rotate(&test.db, WORKLOADS, Duration::ZERO, now).await.unwrap();
            keys.refresh(now).await.unwrap();
            assert_eq!(kid(&keys.sign(claims(), now, HOUR).unwrap()), third);
            assert_eq!(published(&keys, now).await.concat(), third);
            // The next one so soon that neither was published for long.
            let now = now + LOOK_AGAIN;
            rotate(&test.db, WORKLOADS, HOUR, now).await.unwrap();
            keys.refresh(now).await.unwrap();
            assert_eq!(kid(&keys.sign(claims(), now, HOUR).unwrap()), third);
        }
    }

    #[tokio::test]
    async fn no_two_servers_keys_have_the_same_id_where_others_read_them() {
        let mut seen = Vec::new();
        for test in databases().await {
            let keys = JwtKeys::load(&test.db, WORKLOADS, None, START).await.unwrap();
            let set = keys.key_set(START).await.unwrap();
            let key = &set["keys"][0];
            let member = |name: &str| key[name].as_str().unwrap();
            let (x, y) = (member("x"), member("y"));
            let hashed = Sha256::digest(format!("{{\"crv\":\"P-256\",\"kty\":\"EC\",\"x\":\"{x}\",\"y\":\"{y}\"}}"));
            assert_eq!(member("kid"), URL_SAFE_NO_PAD.encode(hashed), "its thumbprint");
            let token = keys.sign(claims(), START, HOUR).unwrap();
            assert_eq!(kid(&token), member("kid"));
            assert!(accepts(&keys, &token, START).await);
            seen.push(kid(&token));
        }
        assert_ne!(seen[0], seen[1]);
    }

    #[tokio::test]
    async fn a_token_of_another_purpose_is_worth_nothing() {
        let test = sqlite().await;
        let users = JwtKeys::load(&test.db, USERS, None, START).await.unwrap();
        let hosts = JwtKeys::load(&test.db, HOSTS, None, START).await.unwrap();
        let token = hosts.sign(claims(), START, HOUR).unwrap();
        assert!(accepts(&hosts, &token, START).await && !accepts(&users, &token, START).await);
        assert!(!accepts(&users, "", START).await && !accepts(&users, &"x".repeat(5000), START).await);
    }

    #[tokio::test]
    async fn replicas_with_the_operators_key_agree_and_older_keys_of_the_file_are_accepted() {
        let (left, right) = (sqlite().await, sqlite().await);
        let path = left.dir.path().join("jwt.pem");
        let made = std::process::Command::new("openssl")
            .args(["genpkey", "-algorithm", "ed25519", "-out"])
            .arg(&path)
            .status()
            .unwrap();
        assert!(made.success());
        let one = JwtKeys::load(&left.db, USERS, Some(&path), START).await.unwrap();
        let other = JwtKeys::load(&right.db, USERS, Some(&path), START).await.unwrap();
        let old = one.sign(claims(), START, HOUR).unwrap();
        assert!(accepts(&other, &old, START).await);
        let text = generate(Algorithm::EdDSA).unwrap().private_pem + &std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, text).unwrap();
        let rotated = JwtKeys::load(&left.db, USERS, Some(&path), START).await.unwrap();
        let new = rotated.sign(claims(), START, HOUR).unwrap();
        assert!(accepts(&rotated, &old, START).await && accepts(&rotated, &new, START).await);
        assert!(!accepts(&one, &new, START + HOUR).await);
        std::fs::write(&path, "nothing").unwrap();
        assert!(JwtKeys::load(&left.db, USERS, Some(&path), START).await.is_err());
    }
}
