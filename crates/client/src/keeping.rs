//! Secrets and volumes: what a team keeps beside its sandboxes.

use atoll_model::api::Page;
use atoll_model::api::secrets::{CreateSecretRequest, Secret};
use atoll_model::api::volumes::{CreateVolumeRequest, Volume};
use http::Method;

use crate::transport::{DEADLINE, encode, query};
use crate::{Client, Error};

impl Client {
    /// Keeps a value under a name. `overwrite`: in place of the one of that name.
    pub async fn set_secret(&self, request: &CreateSecretRequest, overwrite: bool) -> Result<Secret, Error> {
        let query = query(&[("overwrite", overwrite.then(|| "true".to_owned()))]);
        self.json(Method::POST, &format!("/v1/secrets{query}"), Some(request), DEADLINE).await
    }

    pub async fn list_secrets(&self, cursor: Option<&str>) -> Result<Page<Secret>, Error> {
        let query = query(&[("limit", Some("1000".to_owned())), ("cursor", cursor.map(str::to_owned))]);
        self.get(&format!("/v1/secrets{query}")).await
    }

    pub async fn delete_secret(&self, name: &str) -> Result<(), Error> {
        self.json(Method::DELETE, &format!("/v1/secrets/{}", encode(name)), None::<&()>, DEADLINE).await
    }

    pub async fn create_volume(&self, request: &CreateVolumeRequest) -> Result<Volume, Error> {
        self.json(Method::POST, "/v1/volumes", Some(request), DEADLINE).await
    }

    pub async fn list_volumes(&self, cursor: Option<&str>) -> Result<Page<Volume>, Error> {
        let query = query(&[("limit", Some("1000".to_owned())), ("cursor", cursor.map(str::to_owned))]);
        self.get(&format!("/v1/volumes{query}")).await
    }

    pub async fn get_volume(&self, name: &str) -> Result<Volume, Error> {
        self.get(&format!("/v1/volumes/{}", encode(name))).await
    }

    pub async fn delete_volume(&self, name: &str) -> Result<(), Error> {
        self.json(Method::DELETE, &format!("/v1/volumes/{}", encode(name)), None::<&()>, DEADLINE).await
    }
}
