//! Templates: what a sandbox's root file system begins as.
//!
//! [`ensure_base`] gets the image of a recipe into the machine-wide cache; [`store`] knows the templates by name. A
//! [`shipped`] has those that ship besides `base`, which are built when somebody wants them. A template row is a name and the digest of an image; nothing here runs a sandbox or talks to a host.
//! Neighbours: `http/templates.rs` (the route), `sandboxes` (a create looks its template up), the host agent (mounts
//! `<cache>/images/<digest>.erofs`).

mod ahead;
#[cfg(test)]
mod ahead_tests;
mod base;
mod build;
mod cache;
mod recipe;
pub mod shipped;
pub mod store;
#[cfg(test)]
mod tests;

pub use base::{BaseError, BaseImage, cached, ensure_base, ensure_on};
pub use build::Haste;
pub use recipe::{Recipe, RecipeError, is_template_name};
