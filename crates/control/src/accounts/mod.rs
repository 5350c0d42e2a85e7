//! People: accounts, passwords, sessions and the tokens that prove them.
//!
//! `login` signs in by password, `signup` makes accounts, `setup` the first admin, `session` opens, lists and ends
//! sessions, `device` lets programs in, `elsewhere` people who sign in with a provider, `invitations` let people into
//! teams, `reset` sets lost passwords anew, `ending` ends what an account has opened, `key` recognises API keys, `rights` remembers who shows what without acting
//! on rights that are gone, `profile` is what people change about themselves, `password` hashes, `token` signs user
//! JWTs, `rate` bounds guessing, the `store`s have the SQL. What a cookie must bring along is decided in
//! `http/browser.rs`, who may do what in `http/caller.rs`.

mod device;
mod device_store;
mod elsewhere;
pub(crate) mod ending;
mod identity_store;
mod invitation_store;
mod invitations;
mod key;
pub mod link;
mod login;
mod password;
mod profile;
pub(crate) mod rate;
mod reset;
mod reset_store;
pub(crate) mod rights;
mod session;
pub(crate) mod session_store;
mod setup;
mod signup;
pub(crate) mod store;
#[cfg(test)]
mod tests;
pub(crate) mod token;

use std::sync::Arc;
use std::time::Duration;

pub use device::DeviceError;
pub use elsewhere::{ElsewhereError, TTL as SIGN_IN_TTL};
pub use invitation_store::InvitationRow;
pub use invitations::{InvitationError, MOST as MAX_INVITATIONS};
pub use login::LoginError;
pub use password::HashError;
pub use profile::PasswordError;
pub use reset::{Handed, ResetError};
pub use rights::Rights;
pub use session::{Credential, Presented, SessionError, SignedIn, Switched, Visit};
pub use setup::{FirstAdmin, SetupError, Unkept};
pub use signup::{Newcomer, SignupError};
pub use token::UserTokens;

use crate::clock::Clock;
use crate::config::{ControlConfig, SignupMode};
use crate::db::{Db, DbError, Millis};
use crate::mail::Mailer;

/// Sessions that are over stay readable for so long.
const SESSIONS_KEPT: Duration = Duration::from_secs(30 * 24 * 3600);

/// What accounts can be told.
#[derive(Debug, Clone)]
pub struct AccountSettings {
    pub signup: SignupMode,
    pub session_ttl: Duration,
    pub browser_session_ttl: Duration,
}

impl From<&ControlConfig> for AccountSettings {
    fn from(config: &ControlConfig) -> Self {
        Self { signup: config.signup, session_ttl: config.session_ttl, browser_session_ttl: config.browser_session_ttl }
    }
}

/// Signs people in and out. Cheap to clone.
#[derive(Clone)]
pub struct Accounts {
    db: Db,
    clock: Clock,
    tokens: Arc<UserTokens>,
    settings: AccountSettings,
    hasher: password::Hasher,
    rates: rate::Rates,
    rights: Rights,
    uses: session::Uses,
    mailer: Mailer,
}

impl Accounts {
    #[must_use]
    pub fn new(db: Db, clock: Clock, tokens: UserTokens, settings: AccountSettings, mailer: Mailer) -> Self {
        Self {
            rates: rate::Rates::new(db.clone()),
            rights: Rights::new(db.clone()),
            db,
            clock,
            tokens: Arc::new(tokens),
            settings,
            hasher: password::Hasher::default(),
            uses: session::Uses::default(),
            mailer,
        }
    }

    #[must_use]
    pub fn tokens(&self) -> &UserTokens {
        &self.tokens
    }

    #[must_use]
    pub fn mailer(&self) -> &Mailer {
        &self.mailer
    }

    #[must_use]
    pub fn rates(&self) -> &rate::Rates {
        &self.rates
    }

    #[must_use]
    pub fn rights(&self) -> &Rights {
        &self.rights
    }
}

/// Removes attempt counts and sessions that have outlived their use.
pub async fn prune(db: &Db, now: Millis) -> Result<(), DbError> {
    rate::prune(db, now).await?;
    store::prune_links(db, now).await?;
    while session_store::prune(db, now - SESSIONS_KEPT).await? > 0 {}
    Ok(())
}
