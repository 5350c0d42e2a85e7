//! Some things only a signed-in person may do: finds out who that is.

use anyhow::Context;
use atoll_client::{Auth, Client, Credentials};

use super::terminal;
use crate::cli::Global;
use crate::cli::accounts::PersonArgs;
use crate::output::with_hint;

/// A client that asks in a person's name: of `--email`, else of whoever let this program in with `atoll login`, else of the admin of the Atoll on this machine.
pub async fn client(args: &PersonArgs, global: &Global) -> anyhow::Result<Client> {
    let credentials = super::credentials(global)?;
    let client = Client::new(&credentials)?;
    if let (None, None, Some(token)) = (&args.email, &credentials.api_key, &credentials.token) {
        return Ok(client.with_auth(Auth::Bearer(token.clone())));
    }
    let (email, password) = match (&args.email, credentials.admin) {
        (Some(email), _) => (email.clone(), password(email)?.into()),
        (None, Some(admin)) => admin,
        (None, None) => {
            return Err(with_hint(
                "this needs your account, not only an API key",
                "sign in with `atoll login`, or name it with --email or ATOLL_EMAIL",
            ));
        }
    };
    client.signed_in(&email, &password).await.with_context(|| format!("signing in as {email}"))
}

/// From `ATOLL_PASSWORD`, or asked for.
pub fn password(email: &str) -> anyhow::Result<String> {
    match std::env::var("ATOLL_PASSWORD") {
        Ok(password) if !password.is_empty() => Ok(password),
        _ => terminal::ask_secret(&format!("Password of {email}: ")).map_err(|error| {
            with_hint(format!("reading the password: {error}"), "without a terminal, set ATOLL_PASSWORD")
        }),
    }
}

/// What a remembered credential is called in lists.
pub fn machine_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// The credentials that are in force, if any.
pub fn current(global: &Global) -> Option<Credentials> {
    super::credentials(global).ok()
}
