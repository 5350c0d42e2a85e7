//! Mail: invitations and links that set a new password, over SMTP (`--smtp-url`, `--smtp-from`). Without these settings
//! there is none, and whoever makes such a link gets it to hand on.
//!
//! What goes out is plain text. Addresses, links and the server's words may reach the log, a link's secret never does.

use std::sync::Arc;
use std::time::Duration;

use lettre::message::{Mailbox, header::ContentType};
use lettre::transport::smtp::Error as SmtpError;
use lettre::{AsyncSmtpTransport, AsyncTransport, Message, Tokio1Executor};
use secrecy::ExposeSecret;
use tokio::sync::Semaphore;

use crate::config::ControlConfig;

/// Mails under way at once; more wait.
const AT_ONCE: usize = 8;
/// From the first byte to the server's last word.
const WITHIN: Duration = Duration::from_secs(20);
/// Pauses before further tries, when the server could not be reached or says to come back.
const PAUSES: [Duration; 2] = [Duration::from_millis(250), Duration::from_secs(1)];

#[derive(Debug, thiserror::Error)]
pub enum MailError {
    #[error("--smtp-url is not usable; expected something like smtps://user:password@mail.example.com")]
    Url(#[source] SmtpError),
    #[error("--smtp-url needs --smtp-from, the address that mail comes from")]
    NoFrom,
    #[error("--smtp-from is not an address like `Atoll <atoll@example.com>`")]
    From(#[source] lettre::address::AddressError),
    #[error("--smtp-url needs --public-url: mail has links that must work for its readers")]
    NoPublicUrl,
    #[error("no mail can be sent to this address")]
    To(#[source] lettre::address::AddressError),
    #[error("could not write the mail")]
    Write(#[source] lettre::error::Error),
    #[error("could not send the mail")]
    Send(#[source] SmtpError),
    #[error("the mail server did not take the mail in time")]
    TimedOut,
}

/// Sends mail, if it can. Cheap to clone.
#[derive(Clone, Default)]
pub struct Mailer(Option<Arc<Smtp>>);

struct Smtp {
    transport: AsyncSmtpTransport<Tokio1Executor>,
    from: Mailbox,
    turns: Semaphore,
}

impl Mailer {
    /// # Errors
    /// When the settings don't fit together; the text names the one to mend.
    pub fn new(config: &ControlConfig) -> Result<Self, MailError> {
        let Some(url) = &config.smtp_url else { return Ok(Self(None)) };
        let from = config.smtp_from.as_deref().ok_or(MailError::NoFrom)?;
        let from = from.parse().map_err(MailError::From)?;
        if config.public_url.is_none() {
            return Err(MailError::NoPublicUrl);
        }
        let builder = AsyncSmtpTransport::<Tokio1Executor>::from_url(url.expose_secret()).map_err(MailError::Url)?;
        let transport = builder.timeout(Some(WITHIN)).build();
        Ok(Self(Some(Arc::new(Smtp { transport, from, turns: Semaphore::new(AT_ONCE) }))))
    }

    #[must_use]
    pub const fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Sends a mail. Answers false when there is no mail here.
    pub async fn send(&self, to: &str, subject: &str, body: String) -> Result<bool, MailError> {
        let Some(smtp) = &self.0 else { return Ok(false) };
        let message = Message::builder()
            .from(smtp.from.clone())
            .to(Mailbox::new(None, to.parse().map_err(MailError::To)?))
            .subject(subject)
            .header(ContentType::TEXT_PLAIN)
            .body(body)
            .map_err(MailError::Write)?;
        let Ok(_turn) = smtp.turns.acquire().await else { return Ok(false) };
        let mut pauses = PAUSES.into_iter();
        loop {
            let sent = tokio::time::timeout(WITHIN, smtp.transport.send(message.clone())).await;
            let error = match sent {
                Ok(Ok(_)) => return Ok(true),
                Ok(Err(error)) if error.is_permanent() => return Err(MailError::Send(error)),
                Ok(Err(error)) => MailError::Send(error),
                Err(_) => MailError::TimedOut,
            };
            match pauses.next() {
                Some(pause) => tokio::time::sleep(pause).await,
                None => return Err(error),
            }
        }
    }
}
