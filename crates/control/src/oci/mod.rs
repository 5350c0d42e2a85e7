//! Container images from registries, as erofs images in the object store.
//!
//! [`reference`] says what is meant, [`registry`] speaks with the registry, [`pull`] puts an image together, from whatever
//! [`origin`] it has; [`layer`] reads one of its layers. Everything that a registry says is checked: sizes, digests of
//! manifest, configuration and layers, compressed and not. Layers are never unpacked anywhere (`atoll_image`). A registry at
//! a private address is asked only if the operator allows it, and credentials go to the registry alone, never along with a
//! redirect.

mod layer;
mod origin;
mod pull;
#[cfg(test)]
mod pull_tests;
mod reference;
mod registry;

pub use origin::{Bytestream, Origin};
pub use pull::{Pulled, Puller};
pub use reference::{Reference, is_digest};
pub use registry::{Login, OciError, Registries};
