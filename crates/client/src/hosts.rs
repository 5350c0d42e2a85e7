//! Hosts: register, list, delete, drain.

use atoll_model::HostId;
use atoll_model::api::Page;
use atoll_model::api::hosts::{
    CreateHostRequest, CreateHostResponse, Host, HostDeletePreview, HostDrain, RegistrationTokenResponse,
};
use http::Method;
use serde::de::IgnoredAny;

use crate::transport::{DEADLINE, query};
use crate::{Client, Error};

impl Client {
    /// Makes a host's row and the token that its agent enrols with.
    pub async fn create_host(&self, request: &CreateHostRequest) -> Result<CreateHostResponse, Error> {
        self.post("/v1/hosts", request).await
    }

    /// A new registration token, for a host that is pending or has lost its credentials.
    pub async fn new_host_token(&self, id: &HostId) -> Result<RegistrationTokenResponse, Error> {
        self.json(Method::POST, &format!("/v1/hosts/{id}/token"), None::<&()>, DEADLINE).await
    }

    pub async fn list_hosts(&self) -> Result<Page<Host>, Error> {
        self.get("/v1/hosts?limit=1000").await
    }

    pub async fn get_host(&self, id: &HostId) -> Result<Host, Error> {
        self.get(&format!("/v1/hosts/{id}")).await
    }

    /// Refused while sandboxes are on it, unless forced: then they are destroyed.
    pub async fn delete_host(&self, id: &HostId, force: bool) -> Result<(), Error> {
        let query = query(&[("force", force.then(|| "true".to_owned()))]);
        self.json(Method::DELETE, &format!("/v1/hosts/{id}{query}"), None::<&()>, DEADLINE).await
    }

    /// What a forced deletion would destroy.
    pub async fn host_delete_preview(&self, id: &HostId) -> Result<HostDeletePreview, Error> {
        self.get(&format!("/v1/hosts/{id}/delete-preview")).await
    }

    /// How far a host that is drained has come.
    pub async fn host_drain(&self, id: &HostId) -> Result<HostDrain, Error> {
        self.get(&format!("/v1/hosts/{id}/drain")).await
    }

    /// Lets nothing new land on a host, or lifts that.
    pub async fn drain_host(&self, id: &HostId, drain: bool) -> Result<(), Error> {
        let verb = if drain { "drain" } else { "undrain" };
        let path = format!("/v1/hosts/{id}/{verb}");
        self.json::<IgnoredAny>(Method::POST, &path, None::<&()>, DEADLINE).await.map(drop)
    }
}
