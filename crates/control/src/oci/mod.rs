//! Container images from registries, as erofs images in the object store.
//!
//! [`reference`] says what is meant, [`registry`] speaks with the registry, [`pull`] puts an image together. Everything
//! that a registry says is checked: sizes, digests of manifest, configuration and layers, compressed and not. Layers are
//! never unpacked anywhere (`atoll_image`). A registry at a private address is asked only if the operator allows it, and
//! credentials go to the registry alone, never along with a redirect.

mod pull;
mod reference;
mod registry;

pub use pull::Puller;
pub use reference::Reference;
pub use registry::{Login, Registries};
