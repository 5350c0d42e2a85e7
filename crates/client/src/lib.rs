//! A typed client of Atoll's REST API, `/v1`.
//!
//! The command line and the end-to-end tests stand on it, and any Rust program can. Requests and answers are the
//! types of `atoll_model::api`, the very ones the server is written with.
//!
//! ```no_run
//! # async fn example() -> Result<(), atoll_client::Error> {
//! use atoll_client::{Client, Credentials};
//! let client = Client::new(&Credentials::find()?)?;
//! let sandbox = client.create_sandbox(&Default::default()).await?;
//! let answer = client.exec(&sandbox.id, &atoll_client::command("uname", ["-a"])).await?;
//! println!("{}", answer.stdout);
//! client.destroy_sandbox(&sandbox.id).await?;
//! # Ok(()) }
//! ```
//!
//! What it never does: retry a request that could have taken effect, follow redirects, send a credential anywhere
//! but to the configured server, or print one.
#![forbid(unsafe_code)]

mod accounts;
mod connect;
mod credentials;
mod endpoint;
mod error;
mod files;
mod hosts;
mod keeping;
mod sandboxes;
mod snapshots;
mod stream;
mod teams;
mod templates;
mod transport;

pub use atoll_model as model;
pub use credentials::{Credentials, CredentialsError};
pub use endpoint::Endpoint;
pub use error::{ApiError, Error};
pub use files::Download;
pub use sandboxes::{ListSandboxes, command};
pub use stream::{Event, Input, Receiver, Sender, Session, Start};
pub use teams::AuditFilter;
pub use transport::{Auth, Client, Upload};
