//! Connect RPC stubs generated from `proto/`: what control asks of hosts, and what is asked of guests.
//!
//! The code is generated at build time; the `.proto` files are where its documentation stands.
#![allow(clippy::all, clippy::pedantic, refining_impl_trait, missing_docs)]

pub mod channel;
pub mod hop;
pub mod volumes;

connectrpc::include_generated!();

pub use buffa;
pub use buffa_types;
pub use connectrpc;
