//! The agent's side of the zygote: starts it, starts it again when it has died, hands it requests. What it is, and what
//! a clone of it does until it is the guest agent, is in `atoll_launch`.

mod handle;
#[cfg(test)]
pub(crate) mod testing;

pub use handle::Zygote;
