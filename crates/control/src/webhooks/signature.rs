//! The signature of a delivery: HMAC-SHA256 over the time and the body, so that neither can be changed, and an old
//! delivery can't be sent again much later.

use hmac::{Hmac, Mac};
use sha2::Sha256;

/// The value of the header `Atoll-Webhook-Signature`: a signature with each secret that counts, commas between.
#[must_use]
pub fn signature(secrets: &[&str], timestamp: i64, body: &str) -> String {
    let signatures: Vec<_> = secrets.iter().map(|secret| sign(secret, timestamp, body)).collect();
    signatures.join(",")
}

/// With one secret.
#[must_use]
pub fn sign(secret: &str, timestamp: i64, body: &str) -> String {
    // Any length of key will do.
    let Ok(mut mac) = Hmac::<Sha256>::new_from_slice(secret.as_bytes()) else { return String::new() };
    mac.update(timestamp.to_string().as_bytes());
    mac.update(b".");
    mac.update(body.as_bytes());
    format!("v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check that docs/webhooks.md shows, run as it stands there.
    #[test]
    fn the_documents_example_accepts_a_signature_and_refuses_a_wrong_one() {
        let document = include_str!("../../../../docs/webhooks.md");
        let example = document.split("```python\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
        let body = r#"{"id":1,"type":"sandbox.created"}"#;
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs() as i64;
        let check = |timestamp: i64, signature: &str, body: &str| {
            let call = format!("{example}\nprint(verify('s3cret', '{timestamp}', '{signature}', b'''{body}'''))");
            let output = std::process::Command::new("python3").arg("-c").arg(call).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8_lossy(&output.stdout).trim() == "True"
        };
        let signature = sign("s3cret", now, body);
        assert!(check(now, &signature, body));
        assert!(check(now, &super::signature(&["new", "s3cret"], now, body), body), "while a secret is changed");
        assert!(!check(now, &super::signature(&["new", "newer"], now, body), body), "after it was changed");
        assert!(!check(now, &signature, "{}"), "another body");
        assert!(!check(now + 1, &signature, body), "another time");
        assert!(!check(now, &sign("other", now, body), body), "another secret");
        assert!(!check(now - 3600, &sign("s3cret", now - 3600, body), body), "an old one");
    }
}
