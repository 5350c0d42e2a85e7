//! An image that was pushed here, as the puller of builds reads it: straight from the store, without a registry between.

use async_trait::async_trait;
use atoll_model::TeamId;
use futures::{StreamExt, TryStreamExt};

use super::{Registry, RegistryError};
use crate::oci::{Bytestream, OciError, Origin};

/// A repository of a team's.
pub struct Pushed {
    pub registry: Registry,
    pub team: TeamId,
    pub repository: String,
}

fn failed(error: RegistryError) -> OciError {
    match error {
        RegistryError::Object(error) => error.into(),
        RegistryError::Db(error) => error.into(),
        error => OciError::Invalid(error.to_string()),
    }
}

#[async_trait]
impl Origin for Pushed {
    async fn manifest(&mut self, version: &str) -> Result<(Vec<u8>, String), OciError> {
        match self.registry.manifest(&self.team, &self.repository, version).await {
            Ok(stored) => Ok((stored.content.into_bytes(), stored.digest)),
            Err(RegistryError::NoManifest) => {
                Err(OciError::Invalid(format!("nothing was pushed as {}:{version}", self.repository)))
            }
            Err(error) => Err(failed(error)),
        }
    }

    async fn blob(&mut self, digest: &str) -> Result<Bytestream, OciError> {
        let blob = self.registry.blob(&self.team, digest).await.map_err(failed)?;
        Ok(self.registry.read(&blob, None).map_err(failed).boxed())
    }
}
