//! Control's certificate authority, and the TLS that stands on it.
//!
//! ```text
//! CA (ECDSA P-256, in the database, shared by all replicas)
//!  |- control.atoll.internal   server only; what an agent sees when it calls control by that name
//!  |- spiffe://atoll/control   client only; what a host sees when control calls it
//!  `- <id>.host.atoll.internal server only; one per host, for the key that the host made itself
//! ```
//!
//! Server-only and client-only are what keeps hosts apart: a host's certificate can answer control, and can call
//! nobody. The CA's key also signs the tombstones of deleted hosts.
//!
//! The CA's key is kept in the database, not in a file: replicas that share a database must share the CA, and the
//! embedded database is itself a file of mode 0600 in the data directory. Control's own two certificates are made in
//! memory, for each replica and each start, and are renewed when two thirds of their life are over.
//!
//! Never here: which host may have a certificate (`hosts` decides), tokens (`hosts::credentials`).

mod authority;
mod csr;
mod leaf;
mod tls;

pub use authority::{Authority, IssuedCertificate};
pub use csr::{CertificateRequest, HostKey};
pub use tls::{agent_client_config, internal_server_config};

/// Why a certificate could not be made, or a request or signature is no good.
#[derive(Debug, thiserror::Error)]
pub enum PkiError {
    #[error("could not {attempted}")]
    Certificate {
        attempted: &'static str,
        #[source]
        source: rcgen::Error,
    },
    #[error("could not {attempted}")]
    Tls {
        attempted: &'static str,
        #[source]
        source: rustls::Error,
    },
    #[error("could not load or keep the certificate authority")]
    Database(#[from] crate::db::DbError),
    /// Of a host: the caller's fault.
    #[error("the certificate signing request is not valid: {0}")]
    BadRequest(&'static str),
    #[error("the stored certificate authority cannot be read: {0}")]
    Damaged(&'static str),
}
