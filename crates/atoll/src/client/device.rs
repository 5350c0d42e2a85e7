//! Lets a person sign this program in with a browser, wherever that is (RFC 8628): shows an address and a code, and asks
//! the server every few seconds whether they have.

use std::time::Duration;

use anyhow::{Context, bail};
use atoll_client::model::ErrorCode;
use atoll_client::{Client, Error};
use secrecy::SecretString;
use serde_json::json;
use tokio::time::Instant;

use super::person;
use crate::cli::Global;
use crate::output::{self, with_hint};

/// More of a pause when the server says that it is asked too often.
const SLOWER: Duration = Duration::from_secs(5);

/// The token of a session that a person has let this program have.
pub async fn login(client: &Client, global: &Global) -> anyhow::Result<SecretString> {
    let begun = client.begin_device_login(&format!("atoll on {}", person::machine_name())).await?;
    if global.json {
        output::print_json(&json!({
            "verification_uri": begun.verification_uri,
            "verification_uri_complete": begun.verification_uri_complete,
            "user_code": begun.user_code,
            "expires_in": begun.expires_in,
        }))?;
    } else {
        eprintln!("Open this address in a browser and let this program in:\n");
        eprintln!("    {}\n", begun.verification_uri_complete);
        eprintln!("It must show the code {}.", begun.user_code);
    }
    let deadline = Instant::now() + Duration::from_secs(begun.expires_in);
    let mut pause = Duration::from_secs(begun.interval.max(1));
    loop {
        tokio::time::sleep(pause).await;
        let error = match client.device_token(&begun.device_code).await {
            Ok(answer) => return answer.token.map(Into::into).context("the server let us in but gave no token"),
            Err(error) => error,
        };
        let code = match &error {
            Error::Api(answer) => answer.known_code(),
            // The network may come back while the person decides.
            Error::Unreachable { .. } | Error::TimedOut { .. } | Error::Broken { .. } => {
                Some(ErrorCode::AuthorizationPending)
            }
            _ => None,
        };
        match code {
            _ if Instant::now() >= deadline => return Err(over()),
            Some(ErrorCode::AuthorizationPending) => {}
            Some(ErrorCode::SlowDown | ErrorCode::RateLimited) => pause += SLOWER,
            Some(ErrorCode::AccessDenied) => bail!("the person in the browser said no"),
            Some(ErrorCode::ExpiredToken) => return Err(over()),
            _ => return Err(error).context("waiting to be let in"),
        }
    }
}

fn over() -> anyhow::Error {
    with_hint("nobody let this program in in time", "run `atoll login` again")
}
